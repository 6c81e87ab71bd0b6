"""The words that tasks are written with: names, places, objects, and the templates of N-object IOI.

Every name is one token with its leading space in GPT-2's vocabulary and in the embedded model's. A task never relies
on that: it asks the tokenizer at hand and leaves out what does not fit (`instar.tasks.pair.alike_words`).

Names and templates come in two pools that share nothing. Fine-tuning data are written with the first, tests with the
second, so that a rise in accuracy cannot be memory of a name or a wording.
"""

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
