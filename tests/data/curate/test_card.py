"""The data card shows what names say, and lets none of it act."""

from potstill.data.curate.card import plain, table


def test_names_from_data_are_text():
    assert plain("<script>|[a](b)") == "&#60;script&#62;&#124;&#91;a&#93;(b)"
    assert plain("a\n# b") == "a &#35; b"
    assert plain(12345) == "12,345"
    assert table(("A", "B"), [("x|y", 1)]) == "| A | B |\n|---|---|\n| x&#124;y | 1 |"
