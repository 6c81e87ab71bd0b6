"""Reading IOI in free wording: what is read is right, and what could be read in two ways is refused."""

# ruff: noqa: E501 — the prompts are the table

import pytest

from instar.tasks.freetext import UnparsableError, read_ioi
from instar.tasks.library import ioi

# prompt; who is introduced, the answer marked with *; who gives.
READ = """
John, Mary and Jim went to the store. Mary and John gave a drink to | John Mary Jim* | Mary John
In Paris, John and Mary met. Yesterday, Mary gave a ring to | John* Mary | Mary
When Tom met Sue and Kim at the zoo, Sue and Kim gave a toy to | Tom* Sue Kim | Sue Kim
When Tom met Sue and Kim, Kim and Sue gave a toy to | Tom* Sue Kim | Kim Sue
After Ann & Bob & Eve met, Bob & Ann gave a pen to | Ann Bob Eve* | Bob Ann
After John, Mary, and Jim ate, Jim was tired. Mary, together with John, gave a cup to | John Mary Jim* | Mary John
After Al, Bo, Cy and Di met, Di, Al and Cy gave a pen to | Al Bo* Cy Di | Di Al Cy
Élodie, Mary and Jim met in Paris. Mary and Élodie gave a book to | Élodie Mary Jim* | Mary Élodie
John, Mary and Jim sat in Rome. In Rome, John and Mary gave a map to | John Mary Jim* | John Mary
John's dog ran. John, Mary and Jim saw it. Jim and Mary gave a bone to | John* Mary Jim | Jim Mary
After Will, Grace and Mark finished dinner, Mark and Will handed a plate of cookies to | Will Grace* Mark | Mark Will
Rose, May and Hope shared a flat in Berlin. One morning, May and Rose passed a cup of coffee to | Rose May Hope* | May Rose
Jean-Luc, Anne-Marie and Zoë visited the Louvre. Zoë and Jean-Luc offered a postcard to | Jean-Luc Anne-Marie* Zoë | Zoë Jean-Luc
José, Renée and François were at the café; François and Renée gave a croissant to | José* Renée François | François Renée
When O'Brien, Tom and Lucy camped in the woods, Tom and Lucy lent a tent to | O'Brien* Tom Lucy | Tom Lucy
While Alice, Bob and Carol were at the Christmas party, a present was handed by Carol and Bob to | Alice* Bob Carol | Carol Bob
A bottle of wine was brought by Anna. Anna, Ben and Chris toasted, and then Ben as well as Chris gave a glass to | Anna* Ben Chris | Ben Chris
Together, Daniel, Emma and Frank built a treehouse. Emma, along with Frank, gave the hammer to | Daniel* Emma Frank | Emma Frank
On a sunny Monday, Kate, Leo and Mia walked to the park. There, both Leo and Kate threw the ball to | Kate Leo Mia* | Leo Kate
Last Christmas, Peter, Quinn and Ruth stayed home. Ruth and her brother Quinn gave a new iPhone to | Peter* Quinn Ruth | Ruth Quinn
In August, Sam, Tina and Uma flew to New York. Uma and Sam gave a ticket to | Sam Tina* Uma | Uma Sam
In New York, Sam, Tina and Uma got lost. Uma and Sam gave a map to | Sam Tina* Uma | Uma Sam
August, Mary and Jim rowed across the lake. Later August and Mary gave an oar to | August Mary Jim* | August Mary
Excited, Nora, Owen and Paul ran to the beach, where Owen and Nora gave a shell to | Nora Owen Paul* | Owen Nora
Suddenly it rained. Vera, Walt and Xena ran inside, and Xena and Vera gave a towel to | Vera Walt* Xena | Xena Vera
Vera's umbrella was broken. When Vera, Walt and Xena got home, Walt and Xena gave a new umbrella to | Vera* Walt Xena | Walt Xena
Before Mary and John left for work, John gave a kiss to | Mary* John | John
At the bakery, Olivia asked Noah for help. Noah gave a warm loaf to | Olivia* Noah | Noah
"We should go," said Liam. Liam, Emma and Ava left the museum, and Ava and Liam gave a leaflet to | Liam Emma* Ava | Ava Liam
“Ready?” asked Liam. Liam and Emma smiled. Emma gave a balloon to | Liam* Emma | Emma
Because Jack, Jill and Joe had a picnic by the river, Joe and Jill, who were not hungry, gave a sandwich to | Jack* Jill Joe | Joe Jill
John went to the store with Mary. At the counter they met Jim. Mary and John decided to give a bottle of milk to | John Mary Jim* | Mary John
John, Mary and Jim bought a TV. Mary and John gave the TV to | John Mary Jim* | Mary John
John, Mary and Jim had been friends for years. Mary and John were tired, so they gave the car keys to | John Mary Jim* | Mary John
John, Mary and Jim played chess. Mary and John had won twice; the two of them gave a medal to | John Mary Jim* | Mary John
Friends John, Mary and Jim met at noon. Soon Jim and John gave a flower to | John Mary* Jim | Jim John
When Amy, Ben, Cara, Dan and Eli hiked up the hill, Eli, Cara, Amy and Ben gave their water to | Amy Ben Cara Dan* Eli | Eli Cara Amy Ben
Amy sat between Ben and Cara in class. Cara and Amy secretly passed a note to | Amy Ben* Cara | Cara Amy
After meeting John and Mary at Jim's house, Mary and John gave a bunch of flowers to | John Mary Jim* | Mary John
Once upon a time, Hansel, Gretel and Rapunzel lived near a forest. Gretel, with Hansel, gave a basket to | Hansel Gretel Rapunzel* | Gretel Hansel
John, Mary and Jim were in line. Mary and John each gave a dollar to | John Mary Jim* | Mary John
After John and Mary left Jim, Mary and John mailed a letter to | John Mary Jim* | Mary John
That evening John, Mary and Jim cooked. In the kitchen Mary and John gave a spoon to | John Mary Jim* | Mary John
"""

REFUSED = """
Jim was late. When Mary and John saw Jim, John and Mary gave a coffee to | Jim | among the givers
As John, Mary and Jim left Starbucks, Mary and Jim gave a muffin from Starbucks to | John | expected all introduced names but one
The cat sat on the mat and gave it to | John | fewer than two
after john, mary and jim met, mary and john gave a pen to | Jim | fewer than two
After John, Mary and Jim met, he gave a pen to | Jim | 'John' is named and neither
After John and Mary met, John gave a pen to | John | among the givers
After John, Mary and Jim met, Mary and Jim gave a pen to | Jim | among the givers
John, Mary and Jim met. Mary gave a pen to | Jim | 'John' is named and neither
John, Mary, Jim and Bob met. Mary and John gave a pen to | Jim | 'Bob' is named and neither
John, Mary and Jim visited Bob. Mary and John gave a pen to | Jim | 'Bob' is named and neither
John, Mary and Jim met Bob Smith. Bob, Mary and John gave a pen to | Jim | several words
After John Smith, Mary and Jim met, John and Mary gave a pen to | Jim | several words
Mary Jane, John and Jim met. Mary Jane and John gave a pen to | Jim | several words
Mr. Brown, Mary and Jim met. Mr. Brown and Mary gave a pen to | Jim | title
Dr. Lee, Mary and Jim met. Jim and Mary gave a pen to | Lee | title
Aunt May, Rose and Jim met. Jim and Rose gave a pen to | May | title
John, Mary and Jim met. The two friends gave a pen to | Jim | 'John' is named and neither
John, Mary and Jim met. Mary and John were tired, so he gave a pen to | Jim | 'he' after
John and Mary met. Mary was kind, so they gave a pen to | John | 'they' after
John, Mary and Jim met. Mary asked John for help, and John gave a pen to | Jim | expected all introduced names but one
John, Mary and Jim met. Mary or John gave a pen to | Jim | expected all introduced names but one
John, Mary and Jim met. Thanks to Mary and John, a pen was given to | Jim | follow 'to'
John, Mary and Jim met. Jim thanked Mary and John and gave a pen to | Jim | follow 'thanked'
John, Mary and Jim met. Mary and John's dog gave a pen to | Jim | belongs to
John, Mary and Jim met. Mary and John gave Jim's pen to | Jim | among the givers
John, Mary and Jim met. Mary and John gave a pen to Jim | Jim | among the givers
John, Mary and Jim met. Mary and John watched while Zorg gave a pen to | Jim | 'Zorg' may be who gives
John, Mary and Jim met. Mary and John gave a pen to a stranger. | Jim | whole sentence
John, Mary and Jim met. Mary and John gave a pen to | Ann | not named
John, Mary and Jim met. Jim was sad. Mary gave a pen and John gave a cup to | Jim | expected all introduced names but one
"""


def rows(text):
    return [[cell.strip() for cell in line.split(" | ")] for line in text.strip().splitlines()]


@pytest.mark.parametrize(("prompt", "people", "givers"), rows(READ))
def test_free_wording_is_read(prompt, people, givers):
    introduced = tuple(name.rstrip("*") for name in people.split())
    answer = next(name.rstrip("*") for name in people.split() if name.endswith("*"))
    reading = read_ioi(prompt, answer)
    assert reading.introduced == introduced
    assert reading.givers == tuple(givers.split())
    assert introduced[reading.place] == answer
    by_slot = {s.slot: prompt[s.start : s.stop] for s in reading.mentions}
    assert [by_slot[f"intro{i}"] for i in range(1, len(introduced) + 1)] == list(introduced)
    assert [by_slot[f"giver{i}"] for i in range(1, len(introduced))] == givers.split()
    assert sum(prompt.count(name) for name in introduced) == len(reading.mentions)


@pytest.mark.parametrize(("prompt", "answer", "reason"), rows(REFUSED))
def test_what_is_not_sure_has_a_reason(prompt, answer, reason):
    with pytest.raises(UnparsableError, match=reason):
        read_ioi(prompt, answer)


def test_every_mention_is_a_slot():
    prompt = "John's dog ran. John, Mary and Jim saw it. Mary fed it. Jim and Mary gave a bone to"
    slots = [(s.slot, prompt[s.start : s.stop]) for s in read_ioi(prompt, "John").mentions]
    assert slots == [
        ("other1", "John"), ("intro1", "John"), ("intro2", "Mary"), ("intro3", "Jim"), ("other2", "Mary"),
        ("giver1", "Jim"), ("giver2", "Mary"),
    ]  # fmt: skip


@pytest.mark.parametrize("n", [2, 3, 4, 5])
def test_the_librarys_prompts_are_read_as_they_were_made(n):
    for pair in [*ioi(n).pairs(120, seed=5), *ioi(n).pairs(120, seed=5, split="train")]:
        made = tuple(s for s in pair.spans if s.slot.startswith(("intro", "giver")))
        reading = read_ioi(pair.clean, pair.answer)
        assert reading.mentions == made and reading.place == pair.place
