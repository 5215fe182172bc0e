"""What PostgreSQL's functions and operators cost: how large their results get, and how long they can't be interrupted.

PostgreSQL looks for a cancellation between rows, not between the calls within one row, and most functions never look.
So a caller's statement may only name functions that stand in these tables; `bounds` adds them up. Sizes are bytes in
memory, work is nanoseconds on a slow core, for the worst input that was found. A test holds the tables against
`pg_proc` and `pg_operator`: what a new version brings is refused until somebody has sorted it in.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

GIGABYTE = float(2**30)
"""Bytes of the largest value that PostgreSQL can make."""

NUMBER_DIGITS = 150_000.0
"""Characters of the longest number; `'1e131071'::numeric` has them in eight characters of SQL."""

_HUGE = re.compile(r"(?<![\w.])[-+]?[0-9.]+[eE][-+]?0*(?:[4-9][0-9]{2}|[0-9]{4,})(?![\w-])")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')

NUMERIC = frozenset({"numeric", "jsonb", "numrange", "nummultirange"})
"""Types that keep `1e131000` in ten bytes and write it as 131,001 characters."""

MAKES_LONG_NUMBERS = frozenset(
    {"^", "exp", "factorial", "numeric", "pow", "power", "to_number", "hstore_to_json_loose", "hstore_to_jsonb_loose"}
)
"""What may make a number of ten bytes and 131,001 characters of short ones, or of text."""

MOST_DIGITS = 1000.0
"""Characters up to which a number is none of those."""


def has_huge_number(text: str, *, as_json: bool = False) -> bool:
    """Tell whether a text holds a number with an exponent of 400 or more, which no double has.

    Args:
        text: a number, or an array, a range or JSON.
        as_json: what stands in quotes is no number.
    """
    return bool(_HUGE.search(_QUOTED.sub('""', text) if as_json else text))


XML_READ = 1.0
"""Nanoseconds for the square of the bytes that are read as XML, which are as many bytes of memory: libxml2 compares
each attribute with all others of its element, and writes out the defaults that a DTD has for it."""

Sizes = Sequence[float]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one call takes.

    Args:
        size: bytes of the result at most, from the sizes of the arguments.
        work: nanoseconds without an interruption at most.
        short_second: the second argument is a pattern, a needle or a set, and short where people mean it.
        may_be_huge: the size of its result is no reason to check what it is given.
    """

    size: Callable[[Sizes], float]
    work: Callable[[Sizes], float]
    short_second: bool = False
    may_be_huge: bool = False


def _names(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _first_two(sizes: Sizes) -> float:
    return sizes[0] * sizes[1] if len(sizes) > 1 else 0.0


def _pairs(sizes: Sizes) -> float:
    """Return the most comparisons of a byte of one argument with a byte of another."""
    ordered = sorted(sizes)
    return ordered[-1] * ordered[-2] if len(ordered) > 1 else 0.0


def _linear(nanoseconds: float) -> Callable[[Sizes], float]:
    return lambda sizes: nanoseconds * sum(sizes)


def _times(factor: float) -> Callable[[Sizes], float]:
    return lambda sizes: factor * sum(sizes) + 64


def _fixed(_: Sizes) -> float:
    return 128.0


def _digits(sizes: Sizes) -> float:
    """Long multiplication and division of two numbers, four digits at a time."""
    numbers = [min(size, NUMBER_DIGITS) for size in sizes]
    return 0.02 * _pairs(numbers) + 3 * sum(sizes)


def _searching(sizes: Sizes) -> float:
    """A needle that is nearly everywhere in a text."""
    return _pairs(sizes) + 3 * sum(sizes)


def _headline(sizes: Sizes) -> float:
    options = sizes[3] if len(sizes) > 3 else sizes[2] if len(sizes) > 2 and sizes[0] > 64 else 0.0
    return sum(sizes) * (2 + options / 2)


def headline_in_fragments(sizes: Sizes) -> float:
    """Return the work of a headline with `MaxFragments`: each fragment is chosen from all that are left."""
    return 0.03 * max(sizes) ** 2 + 300 * sum(sizes)


def ranking(words: float | None) -> Cost:
    """Return what `ts_rank` costs, which compares all places of the query's words with each other.

    Args:
        words: in the query, if that is known. A vector keeps 255 places of a word, each of which takes two characters.
    """

    def work(sizes: Sizes) -> float:
        # ([weights,] vector, query [, a number])
        query = sizes[2] if len(sizes) > 3 or (len(sizes) > 2 and sizes[2] > 64) else sizes[min(1, len(sizes) - 1)]
        most = query / 32 if words is None else words
        return 7 * min(max(sizes) / 4, 255 * most) ** 2 + 10 * sum(sizes)

    return Cost(_fixed, work)


_FIXED = Cost(_fixed, _linear(3))
_SAME = Cost(_times(1), _linear(3))
_DOUBLE = Cost(_times(2), _linear(10))
_JSON = Cost(_times(8), _linear(40))
_SLOW = Cost(_times(4), _linear(40))
_ARRAY = Cost(_times(16), _linear(60))
_NUMBER = Cost(_times(1), _digits)
ROUNDED = Cost(lambda sizes: sum(sizes) + 16_500, _digits)
"""`round` and `trunc` to a number of places that is not known."""
LONGER = Cost(lambda sizes: sizes[0] + NUMBER_DIGITS, _linear(60), may_be_huge=True)
LONGER_ARRAY = Cost(lambda _: GIGABYTE, _linear(60), may_be_huge=True)
"""Where a jsonpath makes one number, and where it may make many."""
_ANY_NUMBER = Cost(lambda sizes: max(NUMBER_DIGITS, sum(sizes)), _linear(10))
_VECTOR = Cost(lambda sizes: min(2 * sum(sizes) + 64, 1.2e6), _linear(300))
"""PostgreSQL refuses a tsvector of more than a megabyte."""
_QUERY = Cost(_times(16), lambda sizes: 0.2 * sum(sizes) ** 2 + 300 * sum(sizes))
_MATCH = Cost(_fixed, _linear(40))
_NEEDLE = Cost(_fixed, _searching, short_second=True)
_LIKE = Cost(_fixed, lambda sizes: 3 * _pairs(sizes) + 40 * sum(sizes), short_second=True)
_GROUPS = Cost(_fixed, lambda sizes: 5 * _pairs(sizes) + 10 * sum(sizes))

FUNCTIONS: Mapping[str, Cost] = {
    name: cost
    for cost, names in (
        # numbers, times, what is read off a value: always short
        (
            _FIXED,
            """
            acos acosd acosh age area array_dims array_length array_lower array_ndims array_position array_upper ascii
            asin asind asinh atan atan2 atan2d atand atanh bit_count bit_length bool cardinality cash_words cbrt
            center char_length character_length chr clock_timestamp cos cosd cosh cosine_distance cot cotd crc32
            crc32c current_database current_schema current_user date date_add date_bin date_part date_subtract
            date_trunc degrees diagonal diameter difference erf erfc extract family float4 float8 gamma
            gen_random_uuid get_bit get_byte hamming_distance hashtext hashtextextended height
            icount icu_unicode_version inet_same_family inner_product int2 int4 int8 interval isclosed isempty
            isfinite ishorizontal isopen isparallel isperp isvertical jaccard_distance json_array_length json_typeof
            jsonb_array_length jsonb_typeof justify_days justify_hours justify_interval l1_distance l2_distance
            l2_norm length lgamma lower_inc lower_inf lseg macaddr8_set7bit make_date make_interval make_time
            make_timestamp make_timestamptz masklen md5 min_scale money nlevel now npoints num_nonnulls num_nulls
            numnode octet_length oid overlaps pg_collation_for pg_column_size pg_input_is_valid pg_size_pretty
            pg_typeof pi point radians radius random_normal scale session_user sha224 sha256 sha384 sha512 sin sind
            sinh slope soundex starts_with statement_timestamp system_user tan tand tanh text_soundex time timeofday
            timestamp timestamptz timetz timezone to_bin to_hex to_oct transaction_timestamp
            ts_token_type unicode_assigned unicode_version upper_inc upper_inf uuid_extract_timestamp
            uuid_extract_version uuidv4 uuidv7 vector_dims vector_norm width
            """,
        ),
        # a part of what is given, or all of it
        (
            _SAME,
            """
            array_sample array_shuffle
            abbrev akeys array_append array_cat array_prepend array_remove array_reverse array_sort array_to_halfvec
            array_to_sparsevec array_to_vector avals binary_quantize bound_box box broadcast cidr circle concat
            datemultirange daterange defined delete each elem_contained_by_range enum_first enum_last enum_range exist
            exists_all exists_any fetchval generate_series generate_subscripts halfvec_to_vector host hostmask
            hstore_to_matrix idx inet_merge int4multirange int4range int8multirange int8range intset isdefined
            isexists json_array_element json_array_elements json_extract_path json_object_field json_object_keys
            jsonb_array_element jsonb_array_elements jsonb_extract_path jsonb_object_field jsonb_object_keys
            jsonb_path_query jsonb_path_query_first jsonb_path_query_first_tz jsonb_path_query_tz l2_normalize lca
            left line ltree2text multirange netmask network nummultirange numrange path pclose popen querytree random
            range_merge right set_bit set_byte set_masklen setweight skeys slice slice_array strip subarray subltree
            subpath substr subvector svals text2ltree trim_array ts_delete ts_filter ts_lexize tsmultirange
            tsquery_phrase tsrange tstzmultirange tstzrange tsvector_to_array uniq unnest vector_to_float4
            vector_to_halfvec xmlconcat2
            """,
        ),
        (Cost(lambda _: 4096.0, _linear(3)), "current_schemas"),
        (_NUMBER, "abs ceil ceiling div floor gcd lcm mod round sign trim_scale trunc width_bucket"),
        # of a base that is nearly one
        (Cost(_ANY_NUMBER.size, lambda sizes: 10 * min(sizes[0], 17_000.0) ** 2 + 10 * sum(sizes)), "log"),
        (Cost(_fixed, lambda sizes: 400_000 + 3 * sum(sizes)), "levenshtein levenshtein_less_equal"),
        (_ANY_NUMBER, "exp factorial ln log10 numeric pow power sqrt to_number pg_size_bytes"),
        # Each place of the format measures the text anew.
        (Cost(_fixed, lambda sizes: 0.15 * _pairs(sizes) + 10 * sum(sizes), short_second=True), "to_date to_timestamp"),
        # every character is looked at and written anew
        (
            _SLOW,
            """
            bytea casefold citext convert convert_from convert_to decode dmetaphone dmetaphone_alt initcap lower
            metaphone name quote_ident quote_literal quote_nullable reverse substring text to_ascii unaccent unistr
            upper varchar xmlcomment xmltext
            """,
        ),
        (Cost(_times(4), _linear(20)), "encode"),
        (Cost(_times(8), _linear(40)), "to_char"),
        # arrays, JSON and text become each other
        (
            _JSON,
            """
            array_to_json hstore hstore_to_array hstore_to_json hstore_to_jsonb json_array_elements_text
            json_build_array json_build_object json_each json_each_text
            json_extract_path_text json_object json_object_field_text json_populate_record json_populate_recordset
            json_strip_nulls json_to_record json_to_recordset jsonb_array_element_text jsonb_array_elements_text
            jsonb_build_array jsonb_build_object jsonb_concat jsonb_delete jsonb_delete_path jsonb_each
            jsonb_each_text jsonb_extract_path_text jsonb_insert jsonb_object jsonb_object_field_text
            jsonb_populate_record jsonb_populate_record_valid jsonb_populate_recordset jsonb_set jsonb_set_lax
            jsonb_strip_nulls jsonb_to_record jsonb_to_recordset populate_record row_to_json to_json to_jsonb
            """,
        ),
        # A text such as 1e131000 becomes a number.
        (Cost(_times(NUMBER_DIGITS / 8), _linear(40), may_be_huge=True), "hstore_to_json_loose hstore_to_jsonb_loose"),
        (
            Cost(_times(8), lambda sizes: XML_READ * sum(sizes) ** 2 + 40 * sum(sizes)),
            "xml xml_is_well_formed xml_is_well_formed_content xml_is_well_formed_document",
        ),
        (
            _ARRAY,
            """
            array_positions array_to_tsvector daitch_mokotoff parse_ident show_trgm sort sort_asc sort_desc ts_parse
            """,
        ),
        # PostgreSQL looks for interruptions in these itself; what remains is reading and writing the texts
        (_MATCH, "jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz"),
        (Cost(_times(32), _linear(60)), "jsonb_path_query_array jsonb_path_query_array_tz"),
        (_MATCH, "regexp_count regexp_instr regexp_like"),
        (_ARRAY, "regexp_match regexp_matches regexp_split_to_array regexp_split_to_table regexp_substr"),
        (_SLOW, "like_escape similar_escape similar_to_escape"),
        # text search
        (_VECTOR, "json_to_tsvector jsonb_to_tsvector to_tsvector"),
        # Its options may have it put a text of any length around each word that is found.
        (Cost(_headline, _linear(300)), "ts_headline"),
        (
            Cost(_fixed, _linear(300)),
            "similarity strict_word_similarity word_similarity",
        ),
        (_QUERY, "phraseto_tsquery plainto_tsquery to_tsquery websearch_to_tsquery"),
        (Cost(_fixed, lambda sizes: 1.2 * _pairs(sizes) + 10 * sum(sizes)), "ts_rank_cd"),
        (ranking(None), "ts_rank"),
        # loops in loops
        (Cost(_times(4), lambda sizes: 9 * _first_two(sizes) + 10 * sum(sizes), short_second=True), "translate"),
        (
            Cost(_times(1), lambda sizes: 4 * _first_two(sizes) + 10 * sum(sizes), short_second=True),
            "btrim ltrim rtrim",
        ),
        (_NEEDLE, "index position strpos"),
        (Cost(_times(1), _searching, short_second=True), "split_part"),
        (
            Cost(_times(16), lambda sizes: _searching(sizes) + 60 * sum(sizes), short_second=True),
            "string_to_array string_to_table",
        ),
        (_LIKE, "like notlike"),
        # One character may become eighteen others.
        (Cost(_times(12), lambda sizes: 2 * sizes[0] ** 2 + 100 * sizes[0]), "normalize is_normalized"),
        (_GROUPS, "jsonb_exists_all jsonb_exists_any"),
        # growers
        (
            Cost(
                lambda sizes: sizes[0] * (1 + (sizes[2] if len(sizes) > 2 else 0)) + 64,
                lambda sizes: _searching(sizes) + 5 * sizes[0] * (1 + (sizes[2] if len(sizes) > 2 else 0)),
                short_second=True,
            ),
            "replace array_replace",
        ),
        (
            Cost(
                lambda sizes: sizes[0] * (2 + (sizes[2] if len(sizes) > 2 else 0)) + 64,
                lambda sizes: 40 * sum(sizes),
            ),
            "regexp_replace",
        ),
        (Cost(_times(1), _linear(5)), "overlay"),
        (Cost(lambda sizes: sum(sizes) + len(sizes) * sizes[0] + 64, _linear(5)), "concat_ws"),
        (
            Cost(lambda sizes: 4 * sizes[0] * (1 + sum(sizes[1:])), lambda sizes: 20 * sizes[0] * (1 + sum(sizes[1:]))),
            "array_to_string",
        ),
        # A bracket of the deepest nesting stands behind 24 KB of blanks; PostgreSQL gives up at a gigabyte.
        (
            Cost(
                lambda sizes: sizes[0] * min(sizes[0], 12_000.0) + 64,
                lambda sizes: 0.9 * min(GIGABYTE, sizes[0] * min(sizes[0], 12_000.0)),
                may_be_huge=True,
            ),
            "jsonb_pretty",
        ),
    )
    for name in _names(names)
}
"""Every function that a statement may name, apart from aggregates and window functions."""

COUNTED: Mapping[str, int] = {"lpad": 1, "repeat": 1, "rpad": 1}
"""Growers with the place of the argument that says how far; our versions of them in the database check it."""

_MULTIRANGES = _names("int4multirange int8multirange nummultirange tsmultirange tstzmultirange datemultirange")

SLOW_TO_READ: Mapping[str, float] = {
    "xml": XML_READ,
    "tsquery": 0.2,
    "lquery": 2.0,
    **dict.fromkeys(_MULTIRANGES, 0.2),
    "tsvector": 0.05,
}
"""Types whose text takes this many nanoseconds for the square of its bytes to be read."""

KEYED = frozenset({"jsonb", "hstore"})
"""Types whose keys are sorted as their text is read."""

KEY_SORTED = 0.8
"""Nanoseconds for the square of an object's keys. PostgreSQL's quicksort takes the square of what is in an order made
against it, 8 % of the comparisons that there could be, and most functions that sort never look at the time limit."""

SORTED: Mapping[str, float] = {
    **dict.fromkeys(_names("to_tsvector json_to_tsvector jsonb_to_tsvector array_to_tsvector"), 0.05),
    **dict.fromkeys(
        _names(
            "jsonb_object jsonb_build_object hstore jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique"
        ),
        0.02,
    ),
    **dict.fromkeys(_names("jsonb_object_agg_unique_strict akeys slice delete exists_any exists_all"), 0.02),
    **dict.fromkeys((*_MULTIRANGES, "multirange", "range_agg"), 0.3),
    **dict.fromkeys(_names("sort sort_asc sort_desc & | # && @> <@"), 0.005),
}
"""What sorts without a look at the time limit, and the nanoseconds for the square of the bytes of a call's parameters,
which are where such an order comes from."""

MOST_KEYS = 40_000.0
"""Rows that aggregates may sort as they come where they sort by keys; migration 0009 counts as far."""

MOST_RANGES = 15_000.0
"""The same where they sort ranges."""

SORTED_ROWS: Mapping[str, float] = {
    **dict.fromkeys(
        _names("jsonb_object_agg jsonb_object_agg_strict jsonb_object_agg_unique jsonb_object_agg_unique_strict"),
        MOST_KEYS,
    ),
    "range_agg": MOST_RANGES,
}
"""Aggregates that sort their rows at their end, without a look at the time limit."""

VOLATILE = frozenset(
    _names("array_sample array_shuffle clock_timestamp gen_random_uuid random random_normal timeofday uuidv4 uuidv7")
)
"""Functions that are harmless though they return another value each time."""

OF_FRACTIONS = frozenset({"percentile_cont", "percentile_disc"})
FRACTIONS_SORTED = Cost(_times(2), lambda sizes: 0.006 * sum(sizes) ** 2 + 10 * sum(sizes))
"""What they take to sort an array of fractions, of eight bytes or more each."""

HASHED = 0.01
"""Nanoseconds for the square of the bytes of a constant array of which PostgreSQL makes a hash table. Its elements may
be chosen to have one hash, and then each is compared with all before. One takes 16 of the bytes of such a bound."""

UNIQUE_KEYS = Cost(_fixed, lambda sizes: 0.025 * sum(sizes) ** 2 + 40 * sum(sizes))
"""What WITH UNIQUE KEYS takes, the same of the keys in a text, of 17 bytes or more each."""

TEMPLATES = frozenset({"concat_ws", "format"})
"""Functions that repeat an argument as often as another says: a format, or the number of values in an array."""

FILLING: Mapping[str, int] = {"array_fill": 1, "polygon": 0}
"""Growers that have no version of ours: the argument that says how far has to be written out."""

GROWING_AGGREGATES = frozenset(
    _names(
        """
        array_agg json_agg json_agg_strict json_object_agg json_object_agg_strict json_object_agg_unique
        json_object_agg_unique_strict jsonb_agg jsonb_agg_strict jsonb_object_agg jsonb_object_agg_strict
        jsonb_object_agg_unique jsonb_object_agg_unique_strict range_agg string_agg xmlagg
        """
    )
)
"""Their result holds all of their rows."""

AGGREGATES = frozenset(
    _names(
        """
        any_value avg bit_and bit_or bit_xor bool_and bool_or corr count covar_pop covar_samp cume_dist dense_rank every
        first_value lag last_value lead max min mode nth_value ntile percent_rank percentile_cont percentile_disc
        range_intersect_agg rank regr_avgx regr_avgy regr_count regr_intercept regr_r2 regr_slope regr_sxx regr_sxy
        regr_syy row_number stddev stddev_pop stddev_samp sum var_pop var_samp variance
        """
    )
)
"""Aggregates and window functions whose result is no larger than a row of theirs, or a number."""

_COMPARE = Cost(_fixed, lambda sizes: 3 * sum(sizes) + 30 * min(sizes, default=0))
_SIMILAR = Cost(_fixed, _linear(300))
_EACH = Cost(_times(1), lambda sizes: 0.1 * _pairs(sizes) + 40 * sum(sizes))
# Two texts become a document and a query first.
_MATCHING = Cost(_fixed, lambda sizes: 0.25 * _pairs(sizes) + _QUERY.work(sizes[-1:]) + 300 * sizes[0])
_SHAPES = Cost(_times(1), lambda sizes: 2 * _pairs(sizes) + 300 * sum(sizes))

OPERATORS: Mapping[str, Cost] = {
    name: cost
    for cost, names in (
        (_COMPARE, "= <> < <= > >= *= *<> *< *<= *> *>= ~<~ ~<=~ ~>~ ~>=~ <#>"),
        (Cost(_times(1), _linear(5)), "|| -> ->> #> #>> #- & | << >> @-@ @@@ !! |/ ||/ <<= >>= %# %%"),
        (_FIXED, "? &< &> -|- <<| |>> &<| |&> <^ >^ ?- ?-| ?|| <=> <+> <~> <%>"),
        (_MATCH, "~ ~* !~ !~* @? ?<@ ?@> ?~ ^<@ ^? ^@> ^~"),
        # words of a ltxtquery with the labels of an ltree, points of a polygon with those of another
        (_EACH, "@ ^@ ?@ ~="),
        (_LIKE, "~~ ~~* !~~ !~~*"),
        (_MATCHING, "@@"),
        (_GROUPS, "@> <@ && ?| ?& #<# #<=# #= #># #>=#"),
        (_SIMILAR, "% %> <% %>> <<% <->> <<-> <->>> <<<->"),
        (_SHAPES, "<-> ?# # ## + * / ^"),
        # of JSON or hstore and the keys to leave out
        (Cost(_times(1), lambda sizes: _pairs(sizes) + 10 * sum(sizes)), "-"),
    )
    for name in _names(names)
}
"""Operators by their name, whatever they are applied to; one that is not listed is refused."""

PATHS = frozenset(
    _names(
        """
        jsonb_path_exists jsonb_path_exists_tz jsonb_path_match jsonb_path_match_tz jsonb_path_query
        jsonb_path_query_array jsonb_path_query_array_tz jsonb_path_query_first jsonb_path_query_first_tz
        jsonb_path_query_tz
        """
    )
)
"""Functions that go where a jsonpath leads, as the operators `@?` and `@@` do."""

PAIRS_OF_A_PATH = 0.2
"""Nanoseconds for the square of a document's bytes where a path compares what it finds with what it finds."""

ARITHMETIC: Mapping[str, Cost] = {
    **dict.fromkeys("*/%", _NUMBER),
    **dict.fromkeys("+-", Cost(lambda sizes: max(sizes, default=0) + 16 if sum(sizes) < 600 else sum(sizes), _digits)),
    **dict.fromkeys(("^", "|/", "||/", "@", "!!"), _ANY_NUMBER),
}
"""The same operators between numbers and times."""


def of_each(name: str) -> Cost:
    """Return what `x <operator> ANY (array)` costs: PostgreSQL goes through the whole array without a look up."""
    cost = OPERATORS.get(name, _COMPARE)

    def work(sizes: Sizes) -> float:
        if len(sizes) < 2:
            return 0.0
        one, many = sizes[0], sizes[1]
        elements = many / 2 + 1
        if name in ("=", "<>"):
            # Texts of other lengths are told apart without reading them.
            return 15 * elements + 10 * many + 3 * one
        return elements * (cost.work([one, many / elements]) + 10)

    return Cost(_fixed, work)
