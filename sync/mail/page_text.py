"""The words of an HTML page as lines of text: tables by their rows, lists, links with their targets, quoted
parts behind `>`.

inscriptis lays the text out; here is what it knows nothing of: what a mail hides, how a mail quotes, and
pages that were made to take for ever.

Pure: text in, text out; never raises."""

import re
from html import unescape

import lxml.html
from inscriptis import Inscriptis
from inscriptis.css_profiles import CSS_PROFILES
from inscriptis.model.config import ParserConfig
from lxml.etree import LxmlError
from lxml.html import HtmlElement, HTMLParser

MOST_OF_A_PAGE = 262_144
"""Characters that are looked at; no more of a mail is kept."""
_DEEPEST = 100
"""Elements within elements. Beyond that no person wrote it, and laying it out would need our stack."""
_LAYOUT = ParserConfig(css=CSS_PROFILES["relaxed"], display_links=True)
_HIDES = re.compile(
    r"display:none|visibility:hidden|mso-hide:all|opacity:0(?:\.0+)?(?:;|$)"
    r"|max-height:0(?:px)?(?:;|$).*overflow:hidden|overflow:hidden.*max-height:0(?:px)?(?:;|$)"
)
_WIDE = re.compile(r"(?<=\S)[ \t\xa0]{3,}")
_EMPTY_LINES = re.compile(r"\n{3,}")
_TAG = re.compile(r"<!--.*?(?:-->|\Z)|<[^>]*(?:>|\Z)", re.DOTALL)
"""A comment or a tag; one that does not end goes to the end of the page, so that nothing is looked at
twice."""
_WORD = re.compile(r"\w+")
_NOT_FOR_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


def text_of_page(html: str) -> str:
    """What a person who reads the page sees of it, without pictures."""
    html = _NOT_FOR_XML.sub("", html[:MOST_OF_A_PAGE])
    tree = _tree(html)
    if tree is None:
        return _tidy(unescape(_TAG.sub(" ", html)))
    _leave_out_what_is_hidden(tree)
    _shorten_links(tree)
    _mark_quotes(tree)
    return _tidy(_laid_out(tree))


def says_no_more(html: str, text: str) -> bool:
    """Whether every word that a reader of the page sees stands in this text too."""
    tree = _tree(_NOT_FOR_XML.sub("", html[:MOST_OF_A_PAGE]))
    if tree is None:
        return False
    _leave_out_what_is_hidden(tree)
    for element in list(tree.iter("style", "script", "title", "head")):
        if element.getparent() is not None:
            element.drop_tree()
    return set(_WORD.findall(" ".join(tree.itertext()))) <= set(_WORD.findall(text))


def _tree(html: str) -> HtmlElement | None:
    """None for what is no page, or goes too deep."""
    try:
        # An encoding in the page would be believed, though the text is decoded already.
        parser = HTMLParser(encoding="utf-8", huge_tree=True, remove_comments=True, remove_pis=True)
        tree = lxml.html.document_fromstring(html.encode("utf-8", "replace"), parser=parser)
    except (LxmlError, ValueError):
        return None
    level, depth = [tree], 0
    while level:
        level, depth = [child for one in level for child in one], depth + 1
        if depth > _DEEPEST:
            return None
    return tree


def _leave_out_what_is_hidden(tree: HtmlElement) -> None:
    """What a mail shows in a list of mails only, or nowhere."""
    for element in list(tree.iter("*")):
        style = "".join((element.get("style") or "").lower().split())
        is_hidden = element.get("hidden") is not None or _HIDES.search(style) is not None
        if is_hidden and element.getparent() is not None:
            element.drop_tree()


def _shorten_links(tree: HtmlElement) -> None:
    """A target that says what the link says, or that nobody can see, is not said."""
    for link in list(tree.iter("a")):
        target, shown = (link.get("href") or "").strip(), " ".join(link.text_content().split())
        is_said = shown.removesuffix("/") in {
            target.removesuffix("/"),
            target.partition("://")[2].removesuffix("/"),
        }
        is_said = is_said or target.lower().removeprefix("mailto:") == shown.lower()
        if not shown or is_said or target.startswith("#"):
            link.attrib.pop("href", None)


def _mark_quotes(tree: HtmlElement) -> None:
    """The innermost first, so that each level adds its mark."""
    for quote in reversed(list(tree.iter("blockquote"))):
        tail, parent = quote.tail, quote.getparent()
        quote.tail = None  # it would be laid out as a part of it
        lines = _tidy(_laid_out(quote)).split("\n")
        marked = lxml.html.Element("pre")
        marked.text = "\n".join(f"> {line}".rstrip() for line in lines)
        marked.tail = tail
        if parent is not None:
            parent.replace(quote, marked)


def _laid_out(tree: HtmlElement) -> str:
    try:
        return str(Inscriptis(tree, _LAYOUT).get_text())
    except Exception:  # noqa: BLE001  pages are as odd as their makers; their words are there all the same
        return str(tree.text_content())


def _tidy(text: str) -> str:
    """Columns stay apart, but are not laid out for a type in which all letters are as wide."""
    lines = [_WIDE.sub("  ", line.rstrip()) for line in text.replace("\xa0", " ").split("\n")]
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip()
