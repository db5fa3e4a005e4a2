"""What the errors of a store mean, and the sentence for each."""

import re

from scemae.config.locations import without_secrets
from scemae.errors import ShardError, UnreachableError

# What stores answer for a bucket that there is not, also where they only list.
NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "specified bucket does not exist")
# S3 answers 400, not 403, to a session token that has expired.
EXPIRED = re.compile(r"<Code>(Expired\w*|InvalidToken\w*|TokenRefreshRequired)</Code>")


def failure(url: str, error: Exception, done: str, *, again: str, to_write: bool) -> ShardError:
    """The error, in one sentence, for a file that could not be `done` ("read" or "written").

    again: what to do once it can be reached. to_write: whether the folder was opened to write.
    """
    passes = False
    if is_no_bucket(error) or done == "written" and isinstance(error, FileNotFoundError):
        found, do = "found no such bucket", f"make it, or check the address, and {again}"
    elif isinstance(error, FileNotFoundError):
        return ShardError(f"{url}: not found; check the address, or copy the shards there again")
    elif is_refusal(error):
        found = "access was refused, also with credentials read anew"
        do = f"renew the credentials and {again}"
        if to_write:
            found = f"cannot be {done}: {found}"
            do = f"use credentials that may list, read, write and remove there, and {again}"
    else:
        found, passes = f"cannot be {done} ({why(error)})", True
        do = f"check the network and your access, and {again}"
    return UnreachableError(f"{url}: {found}; {do}", passes=passes)


def is_refusal(error: Exception) -> bool:
    """Whether a store refused access: credentials are missing, wrong or expired."""
    from obstore import exceptions as refused

    kinds = (refused.PermissionDeniedError, refused.UnauthenticatedError)
    # Listing raises no error of its own kind.
    is_status = any(f"status code: {code}" in str(error) for code in (401, 403))
    return isinstance(error, kinds) or is_status or bool(EXPIRED.search(str(error)))


def is_no_bucket(error: Exception) -> bool:
    """Whether a store answered that there is no such bucket."""
    return any(words in str(error) for words in NO_BUCKET)


def why(error: Exception) -> str:
    """The first words of an error, without the server's answer: that of S3 repeats the token."""
    words = " ".join(str(error).split("\n\nDebug source:")[0].split())
    code = re.search(r"<Code>(\w+)</Code>", words)
    words = re.sub(r":? *<.*", "", words)
    return without_secrets(words)[:200] + (f": {code[1]}" if code else "")
