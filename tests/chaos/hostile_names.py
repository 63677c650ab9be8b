"""Names that lead elsewhere, as far as somebody believes them: a corpus that is made, not copied."""

import random
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

_UP = (
    b"../", b"..\\", b"..//", b"....//", b"..%2f", b"%2e%2e/", b"%2e%2e%2f", b"%252e%252e%252f", b"..%5c",
    b"..%255c", b"%c0%ae%c0%ae/", b"%c0%ae%c0%ae%c0%af", b"..%c0%af", b"..;/", b".%00./", b"..%00/",
    b"%uff0e%uff0e/", "\u2024\u2024/".encode(), "\uff0e\uff0e\uff0f".encode(), "\u2025/".encode(), b"./../",
    b"/../", b"\\..\\", b"..%u2215", b"%e0%80%ae%e0%80%ae/",
)  # fmt: skip
_ENDS = (
    b"etc/passwd", b"etc/passwd%00.png", b"proc/self/environ", b"windows/win.ini", b"keys.json",
    b"store/keys.json",
    b"live.json", b"evil", b"students/live.json", b"card.json", b"evil.png", b".git/config", b"", b".", b"..",
)  # fmt: skip
_ODD = (
    b"", b".", b"..", b"...", b"/", b"//", b"\\", b"~", b"~root", b"-", b"--help", b"-rf", b"*", b"?",
    b"$HOME",
    b"${jndi:ldap://x/a}", b"`id`", b"$(id)", b";id", b"|id", b"&id", b"' OR 1=1--", b"<script>", b"{{7*7}}",
    b"%s%n%x", b"%", b"%0", b"%zz", b"%00", b"a%00b", b"%0d%0aX-Evil:1", b"%0a", b"%1b[2J", b"\xff\xfe",
    b"\xc3\x28",
    "\u202eevil".encode(), "\u2028".encode(), "\u0000".encode(), "e\u0301".encode(), "\U0001f600".encode(),
    b"CON", b"nul", b"COM1.png", b"C:", b"C:\\x", b"\\\\host\\x", b"file:///etc/passwd", b"http://127.0.0.1/",
    b"gopher://x", b"s3://x/y", b"data:,x", b"con.", b"a.", b"a ", b" a", b"A", b"a" * 300, b"a" * 5_000,
    b".hidden",
    b"a/b", b"a\\b", b"a:b", b"live", b"rollback", b"upload-" + b"0" * 32, b"__proto__", b"null", b"NaN",
    b"1e999",
    b"\xed\xa0\x80", b"%ed%a0%80", b"a\tb", b"0", b"-1", b"9" * 40,
)  # fmt: skip


def names(count: int, watched: Path) -> Iterator[bytes]:
    """Yield so many names; those that are absolute lead under `watched`."""
    chance = random.Random(6)
    made = 0
    for name in _ODD[:count]:
        made += 1
        yield name
    root = str(watched).encode()
    while made < count:
        made += 1
        up = chance.choice(_UP) * chance.choice((1, 1, 2, 3, 5, 8, 16))
        end = chance.choice(_ENDS)
        name = chance.choice(
            (
                up + end,
                root + b"/" + end,
                chance.choice(_ODD) + up + end,
                quote(root + b"/" + end, safe="").encode(),
                quote(quote(up + end, safe=""), safe="").encode(),
                end + b"/" + up + chance.choice(_ODD),
                bytes(chance.randrange(1, 256) for _ in range(chance.randint(1, 40))),
            )
        )
        # A line's end would make another request of it, which is none of a name's business.
        yield name.replace(b"\r", b"%0d").replace(b"\n", b"%0a").replace(b'"', b"%22")
