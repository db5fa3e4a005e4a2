"""What S3 answers to a request by its signature: access, or the code of a refusal.

It follows AWS's description of Signature Version 4, and does not use any client's code.
"""

import hashlib
import hmac
import re
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path

HEADER = re.compile(
    r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([\w-]+)/s3/aws4_request, ?"
    r"SignedHeaders=([\w;-]+), ?Signature=([0-9a-f]{64})"
)


@dataclass
class Credentials:
    """Of one session: what a client knows, and S3 too."""

    number: int = 1

    @property
    def key_id(self) -> str:
        """The name of the key, which is no secret."""
        return f"ASIA{self.number:016d}"

    @property
    def secret(self) -> str:
        """What signs."""
        return f"secret-{self.number}-wJalrXUtnFEMI"

    @property
    def token(self) -> str:
        """What is sent beside a signature."""
        return f"token-{self.number}-FwoGZXIvYXdzEBYa"

    @property
    def environment(self) -> dict[str, str]:
        """As variables of the environment."""
        return {
            "AWS_ACCESS_KEY_ID": self.key_id,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_SESSION_TOKEN": self.token,
        }

    def write(self, path: Path) -> None:
        """As a file ~/.aws/credentials."""
        lines = [f"{name.lower()} = {value}\n" for name, value in self.environment.items()]
        path.write_text("[default]\n" + "".join(lines))


def refusal(request: BaseHTTPRequestHandler, valid: Credentials) -> tuple[int, bytes] | None:
    """Status and body with which S3 refuses a request; None where it is signed by `valid`."""
    found = HEADER.fullmatch(request.headers.get("Authorization", ""))
    token = request.headers.get("x-amz-security-token", "")
    if not found:
        return 403, b"<Error><Code>AccessDenied</Code></Error>"
    if token != valid.token:
        return 400, (
            "<Error><Code>ExpiredToken</Code><Message>The provided token has expired.</Message>"
            f"<Token-0>{token}</Token-0></Error>"
        ).encode()
    if found[1] != valid.key_id:
        return 403, b"<Error><Code>InvalidAccessKeyId</Code></Error>"
    if not hmac.compare_digest(signature(request, valid.secret, *found.groups()[1:4]), found[5]):
        return 403, b"<Error><Code>SignatureDoesNotMatch</Code></Error>"
    return None


def signature(
    request: BaseHTTPRequestHandler, secret: str, day: str, region: str, names: str
) -> str:
    """The signature that a request by `secret` has. names: of the signed headers."""
    path, _, query = request.path.partition("?")
    headers = "".join(f"{name}:{request.headers[name].strip()}\n" for name in names.split(";"))
    content = request.headers["x-amz-content-sha256"]
    query = "&".join(sorted(query.split("&")))
    canonical = "\n".join([request.command, path, query, headers, names, content])
    digest = hashlib.sha256(canonical.encode()).hexdigest()
    scope = f"{day}/{region}/s3/aws4_request"
    text = "\n".join(["AWS4-HMAC-SHA256", request.headers["x-amz-date"], scope, digest])
    key = f"AWS4{secret}".encode()
    for part in (day, region, "s3", "aws4_request", text):
        key = hmac.digest(key, part.encode(), "sha256")
    return key.hex()
