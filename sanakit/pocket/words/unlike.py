"""Texts in which there is nothing to draw: abstract words, questions, code, keys struck at random.

Written by hand for `known_things.py`, which takes every second text as what no thing is like, and the others
to find where known ends. None is among `evaluate.first_prompts.UNKNOWN_PROMPTS`, which stay a test.
"""

from __future__ import annotations

_TEXTS = """
an idea, a thought, an opinion, knowledge, truth, justice, freedom, time, the past, the future, history,
economics, politics, philosophy, physics, chemistry, mathematics, statistics, a theory, a theorem, a
proof, an equation, a number, a percentage, a ratio, a probability, an algorithm, software, a database, a
programming language, a variable, a loop, an error message, a compiler, a password, a protocol, an
interface, a contract, a law, a legal clause, a court ruling, a tax, a loan, a bank account balance, stock
prices, a recession, trade policy, marketing strategy, a business plan, a meeting agenda, a deadline, a
salary, unemployment, an election, a government, a committee, a resolution, foreign policy, a war of
independence, a peace agreement, an empire, a dynasty, religion, faith, morality, ethics, logic, a
paradox, an argument, a contradiction, a definition, a synonym, an adjective, a verb tense, a paragraph, a
chapter, an essay, a summary, a translation, a pronunciation, a dialect, poetry, rhythm, harmony, a melody
in a minor key, a genre, a style, beauty, love of wisdom, loneliness, boredom, curiosity, jealousy,
courage, patience, ambition, success, failure, a habit, a memory, a dream job, consciousness,
intelligence, personality, a diagnosis, a symptom, a vaccine trial, metabolism, evolution, genetics, a
mutation, an ecosystem, climate change, gravity, energy, entropy, magnetism, radiation, a chemical
reaction, a molecule, an isotope, a frequency, a wavelength, velocity, acceleration, a dimension, a vector
space, a matrix, a function, an integral, a derivative, a set, topology, game theory, information,
communication, a network protocol, social media, a subscription, an update, a version number, the next
step, the first reason, the last chance, the same thing again, something else, nothing at all, everything,
anything you like, someone, because of that, what do you mean, where are you from, can you help me, who
are you, when does it start, why not, tell me about yourself, explain this to me, good morning, thank you
very much, never mind, okay, no, maybe, please, one two three, 2024, 3.14159, 100, abc def ghi, sdfg hjkl,
wqer tyui, vbnm cxz, jfkdls, ooooo, mmmm, test test, print hello world, return true, if x then y, null
pointer exception, git commit, select all, https www example com, a day in March, next week, last year,
the nineteenth century, a decade, half an hour, a long time ago, the beginning, the end of the story, a
reason, a cause and an effect, a purpose, a problem, a solution, a method, a process, a system, a
structure, a category, a quality, a quantity, a difference, a relationship, a community, a society, a
culture, a tradition, an institution, a university degree, a subject, a research project, a discussion, a
decision, a promise, a rule, a right, a duty, a risk, a benefit, a price, a cost, a profit, a debt, an
inheritance, ownership, permission, responsibility, authority, violence, the answer to everything, a
coincidence, a regression coefficient, a standard deviation, the margin of error, a sample size, cause of
action, due process, intellectual property, a patent application, a power of attorney, a court order,
constitutional law, common sense, public opinion, national identity, cultural heritage, a social contract,
class struggle, the free market, interest rates, exchange rate policy, a balance sheet, an annual report,
a business model, a mission statement, a value proposition, customer satisfaction, market share, a merger
and acquisition, a pension scheme, a credit score, a refund policy, a job description, a performance
review, a curriculum, an exam question, a thesis statement, literary criticism, a point of view, a plot
twist, a figure of speech, an allegory, an anecdote, sarcasm, a pun, a proverb, a palindrome, an acronym,
a preposition, grammar, syntax, semantics, punctuation, the alphabetical order, a footnote, a
bibliography, metaphysics, nihilism, stoicism, idealism, empiricism, rationalism, determinism, altruism,
egoism, a moral dilemma, virtue, guilt, shame, envy, gratitude, forgiveness, hope, despair, melancholy,
serenity, enthusiasm, motivation, self esteem, attention span, short term memory, perception, intuition,
reasoning, a bias, a stereotype, a prejudice, peer pressure, a lifestyle, a routine, procrastination,
efficiency, productivity, quality control, risk assessment, a trade off, optimisation, recursion,
polymorphism, inheritance and encapsulation, a data structure, a binary search, a hash function, a neural
network, backpropagation, an activation function, overfitting, a training loss, a user interface
guideline, a configuration option, a command line argument, an environment variable, a memory leak, a
segmentation fault, a race condition, a unit test, continuous integration, open source, version control, a
pull request, an API endpoint, latency and bandwidth, encryption, authentication, a firewall rule, a
default value, for i in range, let x equal five, print x, npm install, sudo apt update, error 404,
consectetur adipiscing elit, hjklo, xcvb, rtzu, pqrs tuv, zzzzzz, hahaha, uhhh, hm ok, nope, yep, sure
thing, of course, by the way, in other words, on the other hand, as soon as possible, for example, in my
opinion, according to him, at least, more or less, sooner or later, as well as, what happened, what does
it mean, what should I do today, how old are you, how do you know, where do we go, who invented it, when
was it, which one is better, why do people lie, is it true, can I ask you something, do you understand, I
do not know, I am bored, I feel tired, leave me alone, see you later, have a nice day, happy to help,
sorry about that, let us begin, wait a moment, try again, a week ago, this afternoon, every day, forever,
never, always, sometimes, often, the day after, Monday, February, in 1995, the sixties, the Middle Ages,
the Renaissance, the Cold War, the French Revolution, antiquity, prehistory, modernity, the present
moment, an era, a generation, a birthday date, a century, seventeen, forty two, a million, minus three,
zero, two thirds, ten percent, a dozen times, the average, the maximum, the sum, a square metre, the
volume, the density, the pressure, voltage, electrical resistance, a chemical bond, oxidation, an acid,
nitrogen, carbon dioxide, a catalyst, an enzyme, a hormone, cell division, natural selection,
biodiversity, global warming, the greenhouse effect, sustainability, plate tectonics, the big bang theory,
dark matter, string theory, general relativity, the uncertainty principle, a quantum state, superposition,
eine Idee, die Wirtschaft, Gerechtigkeit, Wissenschaft und Forschung, die Steuererklärung, was ist das,
guten Morgen, die Vergangenheit, eine Entscheidung, das Gesetz, die Freiheit, la economía, una idea, la
justicia, la libertad, una decisión, qué es esto, buenos días, el pasado, una ley, la filosofía, une idée,
la liberté, l'économie, la justice, une décision, qu'est-ce que c'est, bonjour, le passé, une loi, la
philosophie, 经济, 自由, 正义, 哲学, 这是什么, 决定, 历史, 法律, 未来, 数学, 経済, これは何ですか, 歴史,
how does inflation work, what is the capital of France, write me a poem, the opposite of entropy,
quarterly earnings report, supply chain management, object oriented programming, the future perfect tense,
Kantian ethics, tell me a joke, who won the election, what time is it, SELECT name FROM users, def main():
return 0, lkjh poiu mnbv, qqq www eee, zxcvbnm, the fundamental theorem of calculus, freedom of speech, a
conspiracy theory, statistical significance, postmodernism, the categorical imperative, linear algebra, a
tax deduction, a constitutional amendment, regret, irony, the concept of infinity in mathematics,
ambiguity, a metaphor, tomorrow, twenty seventeen, 98765, sovereignty, how much does it cost, why is this
happening, please help me with my homework, machine learning, a differential equation, the industrial
revolution, cognitive dissonance, gross domestic product, a software license agreement, the passive voice,
net present value, hermeneutics, utilitarianism, the speed of thought, a rhetorical question, yes, the
Enlightenment, aaaaaaa, terms and conditions, a quarterly budget forecast, the law of diminishing returns,
free will and determinism, thermodynamic equilibrium, a logical fallacy, globalisation
"""

UNLIKE: tuple[str, ...] = tuple(" ".join(_TEXTS.split()).split(", "))
