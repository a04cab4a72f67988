"""The one error of everything that reads bytes."""


class BitstreamError(ValueError):
    """Bytes that are no .lvc file, or a damaged one, or one of another VAE, or too large. The message says which."""
