"""The text of every token, because servers speak of tokens by their text, and texts are not always one token's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from transformers import PreTrainedTokenizerBase

UNREADABLE = "�"


class TokenTexts:
    """Tokens of one tokenizer by text.

    texts: of each id, with the space before a word. A part of a character has no text: servers leave it out, or write
    U+FFFD for it, and some leave out special tokens too. A text that may stand for several tokens stands for none.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase):
        self._tokenizer = tokenizer
        # Some decoders drop the space of a text's first token, so each token is read behind another one.
        before = tokenizer("a", add_special_tokens=False)["input_ids"]
        start = len(self.text_of(before))
        whole = tokenizer.batch_decode(
            [[*before, index] for index in range(len(tokenizer))],
            skip_special_tokens=False,
            clean_up_tokenization_spaces=False,
        )
        self.texts = [text[start:] for text in whole]
        self.special = set(tokenizer.all_special_ids) | set(tokenizer.added_tokens_decoder)
        # " " is also what is left of a space with half a character, so neither is told by its text.
        counts = Counter(map(legible, self.texts))
        self._ids = {text: at for at, text in enumerate(self.texts) if text == legible(text) and counts[text] == 1}
        self._ids.pop("", None)

    def id_of(self, text: str) -> int | None:
        """The token with this text; None where there is none, or more than one."""
        return self._ids.get(text)

    def fits(self, index: int, text: str) -> bool:
        """Whether a server may mean token `index` by this text."""
        if not 0 <= index < len(self.texts):
            return False
        known = legible(self.texts[index])
        return known == legible(text) or (index in self.special and not legible(text))

    def text_of(self, ids: Sequence[int]) -> str:
        """The text of a sequence, special tokens by their names."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    def ids_of(self, text: str) -> list[int]:
        """The tokens of a text without any frame, names of special tokens read as those."""
        return list(self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])


def legible(text: str) -> str:
    """A text without the traces of parts of characters."""
    return text.replace(UNREADABLE, "")
