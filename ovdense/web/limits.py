"""What the web page accepts: checked before anything is decoded or computed."""
from dataclasses import dataclass

_MIB = 2**20


class Refused(Exception):
    """A request that is not served: `status` is HTTP's, the message is for the user."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Limits:
    """`upload_mib` and `megapixels` of a picture, `classes` of a question and `characters` of all its texts, `waiting` questions in the queue.

    The last `images` pictures and `answers` are kept for further questions; pictures are looked at with at most `side` pixels.
    """

    upload_mib: float = 16.0
    megapixels: float = 50.0
    classes: int = 100
    characters: int = 4000
    waiting: int = 8
    images: int = 16
    answers: int = 16
    side: int = 1600

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if not getattr(self, name) > 0:  # nan is not
                raise ValueError(f"the limit {name} must be above 0, got {getattr(self, name)}")

    def check_bytes(self, count: int) -> None:
        """Raise Refused for an upload that is too large."""
        if count > self.upload_mib * _MIB:
            raise Refused(413, f"the picture's file may have {self.upload_mib:g} MiB at most; make it smaller")

    def check_pixels(self, width: int, height: int) -> None:
        """Raise Refused for a picture of too many pixels."""
        if width * height > self.megapixels * 1e6:
            raise Refused(413, f"the picture may have {self.megapixels:g} million pixels at most, it has {width} x {height}; make it smaller")

    def check_texts(self, texts: list[str]) -> None:
        """Raise Refused for too many classes, or too long ones."""
        if not texts:
            raise Refused(422, "type what to look for: a class or a description a line")
        if len(texts) > self.classes:
            raise Refused(422, f"at most {self.classes} classes can be asked at once here, got {len(texts)}")
        if sum(map(len, texts)) > self.characters:
            raise Refused(422, f"all texts together may have {self.characters} characters at most, they have {sum(map(len, texts))}")
