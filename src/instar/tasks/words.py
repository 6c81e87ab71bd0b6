"""The words that tasks are written with: names, places, objects, and the templates of N-object IOI.

Every name is one token with its leading space in GPT-2's vocabulary and in the embedded model's. A task never relies
on that: it asks the tokenizer at hand and leaves out what does not fit (`instar.tasks.pair.alike_words`).

Names and templates come in two pools that share nothing. Fine-tuning data are written with the first, tests with the
second, so that a rise in accuracy cannot be memory of a name or a wording.
"""

from typing import Literal

TRAIN_NAMES: tuple[str, ...] = (
    "Michael", "Jessica", "Matthew", "Ashley", "Jennifer", "Joshua", "Daniel", "David", "James", "Robert", "John",
    "Joseph", "Andrew", "Ryan", "Brandon", "Jason", "Justin", "Sarah", "William", "Jonathan", "Stephanie", "Brian",
    "Nicole", "Nicholas", "Anthony", "Heather", "Eric", "Elizabeth", "Adam", "Megan", "Melissa", "Kevin", "Steven",
    "Thomas", "Timothy", "Christina", "Kyle", "Rachel", "Laura", "Lauren", "Mary", "Jim", "Tom", "Alice", "Bob", "Peter",
    "Simon", "Anna", "Susan", "Linda", "George", "Martin", "Frank", "Jack", "Henry", "Sam", "Kate", "Ben", "Max", "Jane",
    "Carl", "Dan", "Dave", "Doug", "Fred", "Gary", "Greg", "Harry", "Jeff", "Joe", "Josh", "Julia", "Karen", "Keith",
    "Larry", "Lucy", "Luke", "Maria", "Matt", "Mike", "Nick", "Oliver", "Oscar", "Philip", "Ralph", "Roger", "Ron",
    "Sally", "Steve", "Tony",
)  # fmt: skip

TEST_NAMES: tuple[str, ...] = (
    "Richard", "Kimberly", "Jeffrey", "Amy", "Crystal", "Michelle", "Tiffany", "Jeremy", "Benjamin", "Mark", "Emily",
    "Aaron", "Charles", "Rebecca", "Jacob", "Stephen", "Patrick", "Sean", "Erin", "Kelly", "Samantha", "Nathan",
    "Paul", "Angela", "Tyler", "Scott", "Katherine", "Andrea", "Lisa", "Kenneth",
)  # fmt: skip

PLACES = (
    "store", "school", "park", "garden", "office", "restaurant", "hospital", "station", "house", "library", "museum",
    "market",
)  # fmt: skip

OBJECTS = (
    "bottle of milk", "drink", "ball", "book", "ring", "box of tea", "letter", "gift", "pen", "coat", "map", "key",
    "lamp", "basket of fruit",
)  # fmt: skip

# {names}: the introductions, {givers}: all of them but one, {place} and {object}: scenery.
TRAIN_TEMPLATES = (
    "After {names} went to the {place}, {givers} gave a {object} to",
    "When {names} came to the {place}, {givers} handed a {object} to",
    "While {names} were at the {place}, {givers} passed a {object} to",
    "Once {names} arrived at the {place}, {givers} offered a {object} to",
    "Yesterday {names} walked to the {place}, and {givers} sent a {object} to",
    "Then {names} had lunch at the {place}, and {givers} brought a {object} to",
    "Today {names} met at the {place}, and {givers} showed a {object} to",
    "Because {names} stayed at the {place}, {givers} lent a {object} to",
    "In the evening {names} drove to the {place}. There {givers} sold a {object} to",
    "Last year {names} lived near the {place}. Then {givers} gave a {object} to",
    "Since {names} liked the {place}, {givers} took a {object} to",
    "Before {names} entered the {place}, {givers} threw a {object} to",
    "At noon {names} waited in the {place}. Soon {givers} carried a {object} to",
    "This week {names} played in the {place}, so {givers} returned a {object} to",
    "One day {names} cleaned the {place}, and {givers} presented a {object} to",
    "Although {names} hated the {place}, {givers} delivered a {object} to",
)

TEST_TEMPLATES = (
    "As {names} worked at the {place}, {givers} tossed a {object} to",
    "Last week {names} sat in the {place}, and {givers} gave a {object} to",
    "Before {names} left the {place}, {givers} mailed a {object} to",
    "In the morning {names} ran to the {place}. There {givers} handed a {object} to",
    "Until {names} closed the {place}, {givers} served a {object} to",
    "On Monday {names} visited the {place}, so {givers} brought a {object} to",
)

# For tokenizers that keep every word whole (`Task.fit`). The embedded model has never seen them: each has a word that is not
# in its vocabulary, and what was measured of it stays. SmolLM2-135M-Instruct names somebody in most (docs/metrics.md).
MORE_TRAIN_TEMPLATES = (
    "After {names} finished talking at the {place}, {givers} gave a {object} to",
    "When {names} were sitting in the {place}, {givers} handed a {object} to",
    "While {names} were walking around the {place}, {givers} passed a {object} to",
    "This afternoon {names} met outside the {place}. {givers} then handed a {object} to",
    "On Sunday {names} talked in the {place} for an hour, and then {givers} gave a {object} to",
    "Late at night {names} were alone in the {place}. Then {givers} quietly handed a {object} to",
    "At the end of the day {names} were tired at the {place}, but {givers} still offered a {object} to",
    "Two days ago {names} were waiting outside the {place} when {givers} handed a {object} to",
    "Earlier today {names} were talking at the {place}, and {givers} lent a {object} to",
    "On Friday {names} met in front of the {place}. {givers} happily handed a {object} to",
    "A few minutes ago {names} were talking outside the {place} when {givers} suddenly handed a {object} to",
    "When the rain stopped, {names} walked to the {place}. There {givers} handed a {object} to",
    "On the way to work {names} stopped at the {place}. There {givers} handed a {object} to",
    "Last Friday {names} were standing outside the {place}. {givers} smiled and handed a {object} to",
)

MORE_TEST_TEMPLATES = (
    "While {names} were having coffee at the {place}, {givers} handed a {object} to",
    "On Saturday {names} gathered at the {place}. After a while {givers} gave a {object} to",
    "Just before {names} said goodbye at the {place}, {givers} gave a {object} to",
    "Later that day {names} were standing in the {place}, and {givers} passed a {object} to",
    "During the holidays {names} spent a week at the {place}, and one evening {givers} gave a {object} to",
    "When the bus dropped {names} at the {place}, {givers} handed a {object} to",
    "After lunch {names} returned to the {place}. A moment later {givers} handed a {object} to",
    "In the afternoon {names} were playing in the {place} when {givers} threw a {object} to",
)

TEMPLATES: dict[Literal["train", "test"], tuple[str, ...]] = {"train": TRAIN_TEMPLATES, "test": TEST_TEMPLATES}
MORE_TEMPLATES: dict[Literal["train", "test"], tuple[str, ...]] = {
    "train": MORE_TRAIN_TEMPLATES,
    "test": MORE_TEST_TEMPLATES,
}
