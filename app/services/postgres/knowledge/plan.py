"""What a question asks of the index: its words and other words for them, weighed, and the sources of candidates."""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, combinations

import msgspec

from app.services.postgres.knowledge.statements import Analysis, Lexeme
from app.services.postgres.knowledge.synonyms import LENGTHS, SYNONYMS, stem

_CANDIDATES = 400
"""Articles that are fetched at most for one source of candidates."""
_RANKS = 5600
"""Ranks that are computed at most for one source, one for each article and term: they bound the time of a search."""
_UNPACKED = 9
"""Ranks that take the time of unpacking an article's vector, which is stored compressed."""
_FEW_TERMS = 4
"""So few terms are ranked quicker without unpacking the vector for all of them at once."""
_MARKER_LENGTH = 100
_MAX_GROUPS = 36
_MAX_VARIANTS = 18
_SYNONYM = 0.62
_SYNONYM_OF_PHRASE = 0.9
_PART = 0.3
_CORRECTION = 0.85
_MAJORITY = 1.0
_DISTANCE = 0.15
"""What a wrong letter takes off the closeness; `ANALYSE` says so, too."""
_LETTERS_FOR_ONE = 6
"""Letters of a word that make up for a wrong one."""
_SHORTEST_CHATTER = 3
"""Letters of a word that is too short to be taken for misspelled chatter."""
_RAREST = 3.0
"""What a word tells at most; one that no article has tells as much."""
_NUMBER = 0.5
"""What a number tells that no article has: it is an order's, or an amount."""

_WORD = re.compile(r"\w+(?:['\u2019]\w+)?")
# Words that say nothing of what a question is about, beyond PostgreSQL's own stop words.
_CHATTER = frozenset(
    re.findall(
        r"\S+",
        """
        a an the hi hello hey dear please pls plz thanks thank thx help helping need needs want wants wanted would
        could should can cant can't cannot won't wont don't dont doesn't doesnt didn't didnt isn't isnt hasn't hasnt
        i'm im i've ive how what when where why which who whose do does did is are was were be been am my me i we our
        us you your it its to of in on at for from with by and or if so this that these those there here just really
        very still again anymore any some something anything thing things way tell know like got get gets getting keep
        keeps goes going go say great awesome cool good morning afternoon evening much bye goodbye say says said put
        come comes comes let lets ok okay u ur thru via see look find able possible wie was wo wann warum kann ich
        mein meine meinen ist nicht bitte habe como cómo qué que cuando dónde donde mi quiero por favor
        """,
    )
)


class Variant(msgspec.Struct, frozen=True, gc=False):
    """One way to say one notion of the question."""

    group: int
    words: str
    weight: float
    typed: bool
    """The customer's own word: it may be misspelled, and be corrected."""


class _Term(msgspec.Struct, gc=False):
    """A variant in the words of the index, for one language."""

    group: int
    query: str
    weight: float
    articles: int
    titles: int
    surety: float = 1.0
    """That what was meant is what the customer said: 1 for their own word, less for a synonym or a correction."""


@dataclass
class Plan:
    """What the second statement is asked."""

    candidates: int
    unpacked: bool
    ideal: float = 0.0
    """What an article would have, about, that said each notion in the best way."""
    languages: list[str] = field(default_factory=list[str])
    contents: list[str | None] = field(default_factory=list[str | None])
    titles: list[str | None] = field(default_factory=list[str | None])
    commons: list[str | None] = field(default_factory=list[str | None])
    scans: list[str | None] = field(default_factory=list[str | None])
    term_languages: list[str] = field(default_factory=list[str])
    term_groups: list[int] = field(default_factory=list[int])
    term_queries: list[str] = field(default_factory=list[str])
    term_weights: list[float] = field(default_factory=list[float])
    term_sureties: list[float] = field(default_factory=list[float])
    term_shares: list[float] = field(default_factory=list[float])
    """Of the whole question, what the term's notion says in its language."""


def variants_of(search_term: str) -> list[Variant]:
    """Return what the question may mean: its telling words, and other words for them.

    Words that make up a known phrase ("money back") are one notion together.
    """
    words = [word.replace("\u2019", "'") for word in _WORD.findall(search_term.lower())]
    stems = [stem(word.replace("'", "")) for word in words]
    group = 0
    position = 0
    typed: list[Variant] = []
    others: list[Variant] = []
    while position < len(words) and group < _MAX_GROUPS:
        key = _phrase_at(stems, position)
        phrase = words[position : position + len(key)]
        telling = [word for word in phrase if word not in _CHATTER]
        position += len(key)
        if len(key) > 1:
            group += 1
            if len(telling) > 1:
                others.append(Variant(group, " ".join(telling), 1.0, False))
            typed.extend([Variant(group, word, _PART, True) for word in telling])
        elif telling:
            group += 1
            typed.append(Variant(group, phrase[0].replace("'", " "), 1.0, True))
        else:
            continue
        # A phrase has one meaning, a word several: its synonyms are surer.
        weight = _SYNONYM_OF_PHRASE if len(key) > 1 else _SYNONYM
        others.extend([Variant(group, other, weight, False) for other in SYNONYMS.get(key, ())])
    if not typed and not others:
        # Nothing but chatter ("how to get there"): then chatter is all that can be looked for.
        typed = [Variant(number, word, _PART, True) for number, word in enumerate(words[:_MAX_GROUPS])]
    return (typed + others)[: _MAX_VARIANTS * 2]


def _phrase_at(stems: Sequence[str], position: int) -> tuple[str, ...]:
    """Return the stems from here on that are an entry of the synonyms, the longest entry first; else the first one."""
    for length in LENGTHS.get(stems[position], ()):
        phrase = tuple(stems[position : position + length])
        if phrase in SYNONYMS:
            return phrase
    return (stems[position],)


def respelled(search_term: str, variants: Sequence[Variant], analysis: Analysis) -> str:
    """Return a question with the words that were surely meant in place of those that nobody knows; all else stays.

    It is for a model, which would guess at a misspelled word by its pieces.
    """
    parsed = [lexeme for lexeme in analysis.lexemes if variants[lexeme.number - 1].typed and not lexeme.corrected]
    known = {lexeme.number for lexeme in parsed if lexeme.articles}
    if known.issuperset([lexeme.number for lexeme in parsed]):
        return search_term  # as nearly always
    stems = {(lexeme.number, lexeme.language): lexeme.word for lexeme in parsed}
    # What is grammar in a language is no misspelled word of another.
    known |= {number for number, _ in stems if any((number, language) not in stems for language in analysis.totals)}
    guesses: dict[str, tuple[bool, float, int, str]] = {}
    for lexeme in analysis.lexemes:
        if not lexeme.corrected or lexeme.number in known:
            continue
        typed, stem = variants[lexeme.number - 1].words, stems[lexeme.number, lexeme.language]
        if lexeme.spelling is not None:
            guess = True, lexeme.closeness, lexeme.articles, lexeme.spelling
        elif _is_slip(typed, stem, lexeme):
            guess = False, lexeme.closeness, lexeme.articles, _with_ending_of(typed, stem, lexeme.word)
        else:
            continue
        guesses[typed] = max(guess, guesses.get(typed, guess))
    meant = {typed: correct for typed, (*_, correct) in guesses.items()}
    for number in {lexeme.number for lexeme in parsed} - known:
        if chatter := _chatter_of(variants[number - 1].words):
            meant[variants[number - 1].words] = chatter
    return _WORD.sub(lambda word: meant.get(word.group().lower(), word.group()), search_term)


def _is_slip(typed: str, stem: str, meant: Lexeme) -> bool:
    """Tell whether a word is a slip for another and not one of its own, as `unauthorized`, `hole` and `certified` are
    where articles have `authorized`, `hold` and `certificate`."""
    return _surety(typed, meant) >= _CORRECTION and stem[0] == meant.word[0] and not stem.startswith(meant.word)


def _chatter_of(word: str) -> str | None:
    """Return the word of chatter that this is with two letters in each other's places; None if it is none."""
    if len(word) > _SHORTEST_CHATTER:
        for place in range(len(word) - 1):
            swapped = word[:place] + word[place + 1] + word[place] + word[place + 2 :]
            if swapped in _CHATTER:
                return swapped
    return None


def _with_ending_of(typed: str, stem: str, meant: str) -> str:
    """Return a stem with the ending that the stem of another word has lost: `deliveri` as `delivery` for `delivry`."""
    kept = next((place for place, pair in enumerate(zip(typed, stem, strict=False)) if len({*pair}) > 1), len(stem))
    return meant[: len(meant) + kept - len(stem)] + typed[kept:]


def plan_for(variants: Sequence[Variant], analysis: Analysis, tags: Sequence[str]) -> Plan:
    """Weigh the terms by rarity and decide which of them fetch the candidates."""
    everything = sum(analysis.totals.values())
    typed = sum([variant.typed for variant in variants])
    found: dict[str, dict[int, list[Lexeme]]] = {}
    for lexeme in analysis.lexemes:
        found.setdefault(lexeme.language, {}).setdefault(lexeme.number, []).append(lexeme)
    terms: dict[str, list[_Term]] = {}
    for language, by_number in found.items():
        # A language whose words the question does not use is not the customer's.
        familiarity = ((analysis.known.get(language, 0) + 0.5) / (typed + 0.5)) ** 2
        majority = 1 + _MAJORITY * (analysis.totals[language] / everything)
        known: list[_Term] = []
        for number, lexemes in by_number.items():
            variant = variants[number - 1]
            for term in _terms(variant, lexemes):
                term.weight *= variant.weight * familiarity * majority
                term.surety *= variant.weight
                known.append(term)
        if known:
            _weigh_by_rarity(known, analysis.totals[language])
            terms[language] = known
    rarest = {
        language: sorted(known, key=lambda term: term.articles)[:_MAX_VARIANTS] for language, known in terms.items()
    }
    most = max(map(len, rarest.values()), default=0)
    heaviest: dict[int, float] = {}
    for term in chain.from_iterable(terms.values()):
        if term.weight > heaviest.get(term.group, 0.0):
            heaviest[term.group] = term.weight
    plan = Plan(
        candidates=min(_CANDIDATES, _RANKS // (_UNPACKED + most)),
        unpacked=most > _FEW_TERMS,
        ideal=sum(heaviest.values()),
    )
    # What the index looks for as well, so that it does not fetch other languages' articles to throw them away.
    carried = [tag_marker(tag) for tag in tags]
    for language, known in rarest.items():
        plan.languages.append(language)
        sources = _sources(known, plan.candidates)
        is_minor = analysis.totals[language] * 2 < everything
        markers = [*carried, language_marker(language)] if is_minor else carried
        for queries, wanted in zip((plan.contents, plan.titles, plan.commons, plan.scans), sources, strict=True):
            queries.append(" & ".join([f"({wanted})", *markers]) if wanted else None)
        shares = _shares(variants, found[language], analysis.totals[language])
        plan.term_languages += [language] * len(known)
        plan.term_groups += [term.group for term in known]
        plan.term_queries += [term.query for term in known]
        plan.term_weights += [term.weight for term in known]
        plan.term_sureties += [term.surety for term in known]
        plan.term_shares += [shares.get(term.group, 0.0) for term in known]
    return plan


def _shares(variants: Sequence[Variant], found: Mapping[int, Sequence[Lexeme]], total: int) -> dict[int, float]:
    """Return what part of the question each notion is in a language: the rarer the more, and unknown ones the most.

    Args:
        variants: what the question may mean.
        found: what the index knows of each in the language, by their numbers.
        total: articles in the language.
    """
    telling: dict[int, float] = {}
    for number, variant in enumerate(variants, 1):
        if number not in found:
            continue  # the language's grammar, which says nothing
        if not variant.typed and variant.group in telling:
            continue
        articles = max([lexeme.articles for lexeme in found[number] if not lexeme.corrected], default=0)
        if articles:
            rarity = min(_RAREST, _rarity(articles, total))
        else:
            rarity = _NUMBER if any(map(str.isdigit, variant.words)) else _RAREST
        telling[variant.group] = min(rarity, telling.get(variant.group, rarity))
    everything = sum(telling.values())
    return {group: rarity / everything for group, rarity in telling.items()} if everything else {}


def _rarity(articles: float, total: int) -> float:
    """Return how much a word tells that so many of all articles have, as BM25 weighs it."""
    return math.log(1 + (total - articles + 0.5) / (articles + 0.5))


def _weigh_by_rarity(terms: Sequence[_Term], total: int) -> None:
    """Weigh terms by how few articles hold them, as BM25 does, but count a notion as one word in part.

    Otherwise a rare synonym of a common word ("package" where articles say "parcel") would outweigh all else.
    """
    notions: dict[int, int] = {}
    for term in terms:
        if term.articles > notions.get(term.group, 0):
            notions[term.group] = term.articles
    for term in terms:
        articles = math.sqrt(term.articles * notions[term.group])
        term.weight *= _rarity(articles, total)


def _terms(variant: Variant, lexemes: Sequence[Lexeme]) -> Iterator[_Term]:
    parsed = [lexeme for lexeme in lexemes if not lexeme.corrected]
    articles = min([lexeme.articles for lexeme in parsed], default=0)
    if articles:
        query = " & ".join([_quoted(lexeme.word) for lexeme in parsed])
        yield _Term(variant.group, query, 1.0, articles, min([lexeme.titles for lexeme in parsed]))
    for lexeme in lexemes:
        if lexeme.corrected and lexeme.articles:
            yield _Term(
                variant.group,
                _quoted(lexeme.word),
                _CORRECTION * lexeme.closeness,
                lexeme.articles,
                lexeme.titles,
                _surety(variant.words, lexeme),
            )


def _surety(typed: str, meant: Lexeme) -> float:
    """Return how sure it is that a misspelled word was meant: the more letters for each that is wrong, the surer."""
    wrong = (1 / meant.closeness - 1) / _DISTANCE
    return _CORRECTION * min(1.0, len(typed) / (_LETTERS_FOR_ONE * wrong)) ** 2


def _quoted(lexeme: str) -> str:
    """Return a lexeme as tsquery's input takes it, whatever characters it has."""
    escaped = lexeme.replace("\\", "\\\\").replace("'", "''")
    return f"'{escaped}'"


def tag_marker(tag: str) -> str:
    """Return what the index looks for: the tag in the ways in which it may be written."""
    spellings = dict.fromkeys((tag, tag.lower(), tag.upper(), tag.capitalize(), tag.title()))
    return f"({' | '.join(_quoted(f'#{spelling[:_MARKER_LENGTH]}') for spelling in spellings)})"


def language_marker(language: str) -> str:
    """Return what the index looks for: the language of an article, as it is written there."""
    return _quoted(f"@{language}")


def _sources(terms: Sequence[_Term], candidates: int) -> tuple[str | None, str | None, str | None, str | None]:
    """Return what fetches candidates: rare words in the content, rare and common words in the title, a last resort.

    Args:
        terms: the rarest first.
        candidates: articles that a source may bring.
    """
    by_title = sorted(terms, key=lambda term: term.titles)
    content = list(_affordable(((term.query, term.articles) for term in terms), candidates))
    title = list(_affordable(((term.query, term.titles) for term in by_title), candidates))
    common: dict[int, list[_Term]] = defaultdict(list)
    for term in sorted(terms, key=lambda term: -term.weight):
        if term.titles > candidates:
            common[term.group].append(term)
    # Several common notions together are rare again.
    notions = sorted(common.values(), key=lambda said: said[0].titles)[:3]
    rarest = [f"({_any_of([term.query for term in said[:2]])})" for said in notions]
    together = [" & ".join(pair) for pair in combinations(rarest, 2)] or rarest
    scan = [] if content or title else [term.query for term in terms]
    return _any_of(content), _any_of(title), _any_of(together), _any_of(scan)


def _affordable(queries: Iterable[tuple[str, int]], candidates: int) -> Iterator[str]:
    left = candidates
    for query, matches in queries:
        if 0 < matches <= left:
            left -= matches
            yield query


def _any_of(queries: Sequence[str]) -> str | None:
    return " | ".join(f"({query})" for query in queries) or None
