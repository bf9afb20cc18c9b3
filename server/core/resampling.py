"""Sound at another rate, without a thread: for the event loop, where pieces of 20 to 200 ms are converted."""

import errno
from typing import Any

import av
from av.filter import Graph


class Resampler:
    """Any sound -> mono of one rate and format; stateful, so that pieces join without a click.

    The samples are those of av.AudioResampler. But its filter graph starts a thread for each core at its first frame
    and waits for them: tens of milliseconds on a busy machine, at every clause that is spoken.
    """

    def __init__(self, rate: int, format: str = "s16") -> None:
        """rate: Hz. format: FFmpeg's name of the samples' format."""
        self._rate = rate
        self._format = format
        self._shape: tuple[str, str, int] | None = None
        self._graph: Graph | None = None

    def resample(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
        """What is complete with this frame; None: the rest. Raises ValueError for a frame of another shape."""
        if frame is None:
            return self._run(None) if self._graph is not None else []
        shape = (frame.format.name, frame.layout.name, frame.sample_rate)
        if self._shape is None:
            self._shape = shape
            if shape != (self._format, "mono", self._rate):
                self._graph = self._built(*shape)
        if shape != self._shape:
            raise ValueError(f"the resampler was made for {self._shape}, not for {shape}")
        return [frame] if self._graph is None else self._run(frame)

    def _built(self, format: str, layout: str, rate: int) -> Graph:
        graph = Graph()
        graph.threads = 1  # before the first filter
        source = graph.add(
            "abuffer", sample_rate=str(rate), sample_fmt=format, channel_layout=layout, time_base=f"1/{rate}"
        )
        shape = graph.add("aformat", sample_rates=str(self._rate), sample_fmts=self._format, channel_layouts="mono")
        source.link_to(shape)
        shape.link_to(graph.add("abuffersink"))
        graph.configure()
        return graph

    def _run(self, frame: av.AudioFrame | None) -> list[av.AudioFrame]:
        assert self._graph is not None
        self._graph.push(frame)
        out: list[Any] = []
        while True:
            try:
                out.append(self._graph.pull())
            except EOFError:
                return out
            except av.FFmpegError as error:
                if error.errno != errno.EAGAIN:
                    raise
                return out
