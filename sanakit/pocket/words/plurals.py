"""Plurals of the words for pocket's things, and which words have none. Pure rules and tables."""

from __future__ import annotations


def plural_of(word: str) -> str:
    """Return the plural of a word or of its head: "cup of tea" -> "cups of tea".

    >>> plural_of("puppy"), plural_of("wolf"), plural_of("pair of jeans")
    ('puppies', 'wolves', 'pairs of jeans')
    """
    head, of, rest = word.partition(" of ")
    if of:
        return f"{plural_of(head)}{of}{rest}"
    *before, last = word.split(" ")
    if last in _PLURALS:
        last = _PLURALS[last]
    elif last.endswith(("s", "x", "z", "ch", "sh")):
        last += "es"
    elif last.endswith("y") and last[-2:-1] not in "aeiou":
        last = f"{last[:-1]}ies"
    else:
        last += "s"
    return " ".join([*before, last])


def is_countable(word: str) -> bool:
    """Tell whether a word has a plural of its own: no mass word, name or plural, nothing with a place."""
    if any(
        f" {link} " in word for link in ("in", "with", "on", "from", "for", "and", "behind", "over", "at")
    ):
        return False
    head = word.partition(" of ")[0].split(" ")[-1]
    return not (head in _MASS or word in _MASS or (head.endswith("s") and not head.endswith(("ss", "us"))))


def _pairs(table: str) -> dict[str, str]:
    pairs = (one.split("/") for one in table.replace("\n", " ").strip().split(", "))
    return {singular: plural for singular, plural in pairs}


# irregular plurals, singular/plural; what is alike in both numbers is given too
_PLURALS_TABLE = """
wolf/wolves, leaf/leaves, calf/calves, loaf/loaves, knife/knives, elf/elves, mouse/mice, goose/geese,
foot/feet, tooth/teeth, man/men, woman/women, ox/oxen, child/children, person/people, deer/deer, fish/fish,
sheep/sheep, bison/bison, moose/moose, trout/trout, salmon/salmon, tomato/tomatoes, potato/potatoes,
volcano/volcanoes, hero/heroes, superhero/superheroes, mango/mangoes, mosquito/mosquitoes, fireman/firemen,
policeman/policemen, snowman/snowmen, spaceman/spacemen, cactus/cacti, wife/wives, aircraft/aircraft,
spacecraft/spacecraft, scarf/scarves, policewoman/policewomen, merman/mermen, businessman/businessmen,
horseman/horsemen, tuna/tuna, cod/cod, carp/carp, gentleman/gentlemen, repairman/repairmen, workman/workmen,
rowboat/rowboats, jellyfish/jellyfish, clownfish/clownfish, goldfish/goldfish, dice/dice,
pufferfish/pufferfish, blowfish/blowfish, shrimp/shrimp, squid/squid, krill/krill, angelfish/angelfish,
crayfish/crayfish, chessman/chessmen, supergirl/supergirls, swine/swine, elk/elk, werewolf/werewolves,
octopus/octopuses
"""
# mass words, cries and names that come in ones
_MASS_TABLE = """
africa, ale, alps, america, anger, applause, archery, ariel, asia, asleep, australia, baa, bacon, badminton,
baggage, bambi, barley, baseball equipment, basil, batman, be quiet, beef, beer, blood, bob the builder,
boba, boo, bourbon, bow-wow, bowling, boxing, bread, brezel, broccoli, buddha, butter, calamari, call me,
camping, candlelight, cash, casper, cattle, cauliflower, cereal, champagne, cheese, chemistry, chess,
chocolate, christmas, clapping, cocoa, coffee, cola, confetti, coral, coral reef, corn, cosmos, count
dracula, crap, crying, crying laughing, curling, curry, cussing, cutlery, cycling, dawn, denim, devil horns,
dice, disney, dna, downtown, dracula, drama, dumbledore, dusk, dynamite, e.t., earth, eiffel tower,
electricity, europe, everest, excalibur, fairy dust, fast food, father christmas, fencing, fever, fire,
firewood, fishing, flapping, flipper, fog, free willy, french bread, fried chicken, fuji, fujiyama, gandalf,
garlic, gas, gear up, gelato, ginger, glitter, godzilla, gold, golden gate, golf, goodbye, grain, granny
smith, green tea, growth, halloween, ham, hang loose, hear no evil, heat, hello, hi, hmm, hockey, honey,
ice, ice skating, in love, infinity, jaws, john deere, judo, juggling, juice, jupiter, kaaba, kale, karaoke,
karate, kermit, king kong, krill, kris kringle, lady liberty, lager, lava, lavender, legolas, lemonade,
lightning, living dead, lol, london eye, lotion, love, luggage, lumber, macaroni, mail, maize, makeup,
manhattan, margarine, marriage, matcha, matterhorn, meat, mecca, medicine, meditation, meh, meow, merlin,
milk, milky way, mind blown, mindblown, mint, mist, mjolnir, moby dick, money, moo, morning, mother
christmas, mount fuji, mount everest, mountain biking, mr krabs, mrs claus, mt fuji, music, namaste,
nature, nausea, nemo, new york, news, night, oatmeal, oink, olaf, oregano, outer space, paper, parsley,
partly cloudy, pasta, peace, pennywise, pho, photography, police, poo, poop, popcorn, porridge, post, puke,
quiet, rage, rain, rainfall, ramen, red delicious, red wine, rice, roast chicken, rock on, rofl, rolling
laughing, rope, roulette, rudolph, rugby, rum, sahara, saint nicholas, saint nick, salad, salt, santa, santa
claus, satan, saturn, scotch, security, see no evil, shampoo, sheet music, sherlock holmes, shopping,
silverware, skiing, skydiving, sliced bread, sneezing, snorkelling, snow, snowboarding, snowfall, soap,
soccer, sound, soup, space, spaghetti, speak no evil, spinach, spongebob, sputnik, st nicholas, statistics,
statue of liberty, sunlight, sunscreen, sunshine, superman, surfing, surprise, sushi, sweat, swimming, tea,
tennis, thailand, the planet, theatre, thinking, thread, throwing up, thunder, thyme, timber, tinker bell,
tinkerbell, titanic, tnt, toast, toilet paper, tokyo tower, trash, triton, tux, udon, undead, underwear,
universe, vesuvius, volume, vomit, walking dead, water, waving, weightlifting, wheat, whiskey, whisky, white
bread, wind, wine, winking, wonder woman, wood, woof, wool, world, yarn, yawning, yoga, yum, zzz
"""
_PLURALS = _pairs(_PLURALS_TABLE)
_MASS = frozenset(_MASS_TABLE.replace("\n", " ").strip().split(", "))
