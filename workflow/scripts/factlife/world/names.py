"""Names and values: invented words and a few lists of real ones."""

from __future__ import annotations

import itertools
import math
import random

from factlife.config.worlds import OrdinaryNames, PieceNames
from factlife.world.tables import WorldError

_ONSETS = [
    "B",
    "Br",
    "C",
    "D",
    "Dr",
    "F",
    "G",
    "Gr",
    "H",
    "J",
    "K",
    "L",
    "M",
    "N",
    "P",
    "Pr",
    "R",
    "S",
    "St",
    "T",
    "Tr",
    "V",
    "W",
    "Z",
]
_VOWELS = ["a", "e", "i", "o", "u"]
_CODAS = ["l", "m", "n", "r", "s", "th", "x", "nd", "rk", "st"]

_MONTHS = [
    "January", "February", "March", "April", "May", "June",
    "July", "August", "September", "October", "November", "December",
]  # fmt: skip
_MAJORS = [
    "Accounting", "Acoustics", "Agronomy", "Anatomy", "Anthropology", "Archaeology", "Architecture", "Astronomy",
    "Bacteriology", "Ballet", "Banking", "Biochemistry", "Biology", "Botany", "Cardiology", "Cartography", "Chemistry",
    "Cinema", "Classics", "Cosmology", "Criminology", "Cryptography", "Dentistry", "Design", "Dramaturgy", "Ecology",
    "Economics", "Electronics", "Engineering", "Entomology", "Ethics", "Finance", "Forestry", "Genetics", "Geography",
    "Geology", "Geometry", "Heraldry", "Histology", "History", "Horticulture", "Hydrology", "Immunology", "Informatics",
    "Journalism", "Jurisprudence", "Linguistics", "Literature", "Logic", "Logistics", "Marketing", "Mathematics",
    "Mechanics", "Medicine", "Metallurgy", "Meteorology", "Mineralogy", "Music", "Mycology", "Navigation", "Neurology",
    "Nursing", "Nutrition", "Oceanography", "Oncology", "Optics", "Ornithology", "Painting", "Pedagogy", "Pharmacy",
    "Philosophy", "Photography", "Physics", "Physiology", "Planning", "Poetry", "Politics", "Psychology", "Rhetoric",
    "Robotics", "Sculpture", "Seismology", "Sociology", "Statistics", "Surgery", "Surveying", "Theatre", "Theology",
    "Toxicology", "Virology", "Zoology",
]  # fmt: skip
_ENDINGS = {
    "birth_city": ["ford", "ton", "bury"],
    "working_city": ["mouth", "haven", "port"],
    "university": ["hall", "court", "gate"],
    "employer": ["ix", "ora", "com"],
    "region": ["mark", "shire", "land"],
}


def syllables(ending: str = "") -> list[str]:
    """All invented syllables, in a fixed order."""
    return [onset + vowel + coda + ending for onset, vowel, coda in itertools.product(_ONSETS, _VOWELS, _CODAS)]


def relation_values(relation: str, count: int, rng: random.Random) -> list[str]:
    """Distinct values of a relation.

    Raises:
        WorldError: the pool is smaller than ``count``.
    """
    if relation == "birth_date":
        pool = [f"{day} {month}" for day, month in itertools.product(range(1, 29), _MONTHS)]
    elif relation == "major":
        pool = list(_MAJORS)
    else:
        pool = [word for ending in _ENDINGS[relation] for word in syllables(ending)]
    if count > len(pool):
        raise WorldError(f"{relation} needs {count} distinct values, but there are only {len(pool)}; lower `values`")
    return rng.sample(pool, count)


def person_names(style: PieceNames | OrdinaryNames, count: int, rng: random.Random) -> list[str]:
    """Distinct names.

    Raises:
        WorldError: there are fewer names of this style than ``count``.
    """
    if isinstance(style, PieceNames):
        n_possible = math.prod(style.choices)
        if n_possible < count:
            raise WorldError(
                f"{count} names are needed, but `names.choices` {style.choices} gives only {n_possible}; raise one of them"
            )
        pieces = _pick(syllables(), max(style.choices), 1, rng)
        return [_combination(index, style.choices, pieces) for index in rng.sample(range(n_possible), count)]
    firsts = _pick(syllables("a"), count, style.people_per_first_name, rng)
    lasts = _pick(syllables("son"), count, style.people_per_last_name, rng)
    middles = _pick(syllables("el"), count, 1, rng) if style.middle else None
    if style.people_per_first_name > len(lasts):
        raise WorldError("some people would share both names; lower `people_per_first_name` or `people_per_last_name`")
    names = []
    for person in range(count):
        # Consecutive people share a first name but never a last name.
        parts = [firsts[person // style.people_per_first_name], lasts[person % len(lasts)]]
        names.append(" ".join(parts if middles is None else [parts[0], middles[person], parts[1]]))
    rng.shuffle(names)
    return names


def _combination(index: int, choices: list[int], pieces: list[str]) -> str:
    """The combination with an index; the last piece changes fastest."""
    name = []
    for choice in reversed(choices):
        index, piece = divmod(index, choice)
        name.append(pieces[piece])
    return " ".join(reversed(name))


def _pick(pool: list[str], count: int, people_per_name: int, rng: random.Random) -> list[str]:
    n_distinct = -(-count // people_per_name)
    if n_distinct > len(pool):
        raise WorldError(f"{n_distinct} distinct names are needed, but there are only {len(pool)}; lower `people`")
    return rng.sample(pool, n_distinct)
