"""Files that are there whole or not at all."""

from etils import epath


def write_whole(path: epath.Path, content: bytes) -> None:
    """Write a file so that nobody ever finds a part of it.

    In a bucket an object appears when it is complete; elsewhere it is renamed to its
    name when it is.
    """
    if "://" in str(path):
        path.write_bytes(content)
        return
    partial = path.with_name(f"{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)
