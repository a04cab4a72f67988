"""What can be wrong with a store."""


class StoreError(ValueError):
    """A store that cannot be read or written as asked. The message names the object and what to do."""


class StoreMismatchError(StoreError):
    """A store that was made with another VAE, another type or another preprocessing than is asked for."""


class StoreDamagedError(StoreError):
    """An object of a store that is missing, cut off or altered."""
