"""What can go wrong, with a code that the page can show."""


class VisavisError(Exception):
    """Something a person can act on: `code` for programs, the message for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class ConfigError(VisavisError):
    """A setting is wrong; the message names its path."""

    def __init__(self, message: str) -> None:
        super().__init__("config", message)


class RequestError(VisavisError):
    """A request cannot be met; `status` is the HTTP status."""

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(code, message)
        self.status = status


class StageError(VisavisError):
    """A stage of the corridor failed: `asr`, `llm`, `tts`, `render`."""

    def __init__(self, stage: str, code: str, message: str, retryable: bool = True) -> None:
        super().__init__(code, message)
        self.stage = stage
        self.retryable = retryable


class WorkerLost(StageError):
    """The worker process behind a session died or was stopped; it is being started again."""

    def __init__(self, worker: str, message: str) -> None:
        super().__init__(worker, "worker_lost", message)


class ToolError(VisavisError):
    """A function that the language model called cannot do what was asked; the message is for the model."""

    def __init__(self, message: str) -> None:
        super().__init__("tool", message)
