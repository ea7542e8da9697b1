"""A refusal: what was asked for cannot be done, said in one sentence that names what would be right.

Pure: the sentence and its parts; pages translate the sentence, commands print it as it is."""


class Refusal(Exception):
    """Base of everything that is refused to a person with a reason.

    `sentence` is the English sentence with %(name)s places, which translations look up; `parts` fill them."""

    def __init__(self, sentence: str, **parts: str | int) -> None:
        self.sentence = sentence
        self.parts = parts
        super().__init__(sentence, parts)

    def __str__(self) -> str:
        return self.sentence % self.parts if self.parts else self.sentence
