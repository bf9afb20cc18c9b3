"""Faster or slower speech at the same pitch, for servers that cannot: FFmpeg's atempo filter, piece by piece."""

import av
import numpy as np

from server.core.media import SAMPLE_BYTES


class Tempo:
    """One clause's pieces."""

    def __init__(self, rate: int, speed: float) -> None:
        """rate: Hz; speed: 0.5 to 2, more is faster. Outside that it is brought within."""
        graph = av.filter.Graph()
        source = graph.add_abuffer(sample_rate=rate, format="s16", layout="mono")
        tempo = graph.add("atempo", str(min(max(speed, 0.5), 2.0)))
        sink = graph.add("abuffersink")
        source.link_to(tempo)
        tempo.link_to(sink)
        graph.configure()
        self._graph = graph
        self._rate = rate
        self._given = 0

    def feed(self, pcm: bytes) -> bytes:
        """s16le mono in and out; the filter keeps some 50 ms back."""
        if pcm:
            frame = av.AudioFrame.from_ndarray(np.frombuffer(pcm, np.int16).reshape(1, -1), "s16", "mono")
            frame.sample_rate = self._rate
            frame.pts = self._given
            self._given += len(pcm) // SAMPLE_BYTES
            self._graph.push(frame)
        return self._pulled()

    def flush(self) -> bytes:
        """The rest; once, at the end."""
        self._graph.push(None)
        return self._pulled()

    def _pulled(self) -> bytes:
        out = b""
        while True:
            try:
                frame = self._graph.pull()
            except (BlockingIOError, EOFError):
                return out
            out += frame.to_ndarray().tobytes()
