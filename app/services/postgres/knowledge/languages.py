"""What people and programs call a language, beside the code that articles have."""

import re
from collections.abc import Mapping

_CALLED = """
ar ara arabic
cs ces cze czech čeština
da dan danish dansk
de deu ger german deutsch
el ell gre greek
en eng english
es spa spanish español espanol castellano castilian
fi fin finnish suomi
fr fra fre french français francais
he heb hebrew
hi hin hindi
hu hun hungarian magyar
id ind indonesian
it ita italian italiano
ja jpn japanese
ko kor korean
nl nld dut dutch nederlands flemish
no nor nb nn norwegian norsk
pl pol polish polski
pt por portuguese português portugues
ro ron rum romanian română
ru rus russian
sv swe swedish svenska
th tha thai
tr tur turkish türkçe
uk ukr ukrainian
vi vie vietnamese
zh zho chi chinese mandarin
"""
_CODES: Mapping[str, str] = {name: line.split()[0] for line in _CALLED.strip().splitlines() for name in line.split()}


def language_code(called: str) -> str:
    """Return the code of a language, without a region: `en` for `EN`, `en-US`, `eng` and `English`.

    What is no language that we know comes back in small letters, without what may be a region.
    """
    language = re.split(r"[-_\s(]", called.strip().lower(), maxsplit=1)[0]
    return _CODES.get(language, language)
