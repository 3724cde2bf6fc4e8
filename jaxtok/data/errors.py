"""What can be wrong with records."""


class BadRecord(Exception):
    """One record cannot be decoded: the pipeline replaces it.

    Attributes:
      key: Name of the record in its source (file name, row, ...).
      reason: What went wrong.
    """

    def __init__(self, key: str, reason: str):
        super().__init__(key, reason)
        self.key = key
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.key}: {self.reason}"


class BadDataError(RuntimeError):
    """More records than allowed cannot be decoded."""
