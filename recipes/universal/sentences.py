"""What the voices of the training corpus say: our own sentences, rich in lip closures, and endless made-up ones."""

# ruff: noqa: SIM905

import random

SENTENCES = """
Bring me a paper cup of plain black coffee.
My brother maps every bumpy mountain path in spring.
Please pick up the purple umbrella before it gets blown away.
The baker's boy dropped a pile of brown bread by the pump.
Tomorrow morning the mayor may open the museum's main room.
Above the village, five white doves flew over the river valley.
Few people ever visit the cave behind the waterfall.
Should she wash her shoes, or shall I brush them?
The judge's huge garage is just beyond the bridge.
Thirty-three thick feathers lay on the path to the theatre.
They breathe together, then they gather the other clothes.
Choose a cheap chair and watch the children play chess.
Usually the beige one is a pleasure to measure.
Yellow onions, young lawyers, and a million stars.
We wonder why the wild wind went west this week.
Hanging from a long string, the king's ring swung along.
How high is the house on the hill behind the hospital?
Look, the clock on the local school is a little slow.
Really rare red roses grow around the rural railway.
Six snakes slid silently across the soft sand.
A zebra in the zoo sneezed, and the noise amazed us.
Dad hid the good red ladder under the old wooden deck.
Ten tiny tigers took two taxis to town.
Good grief, a big grey goose got the girl's bag again!
Kate keeps a cake in the kitchen for the quick cook.
Napkins, bumpers, and pumpkins: none of them belong on the lamp.
Put both bottles back in the box by the bed.
Maple syrup makes simple pancakes much better.
Peppermint tea helps when my stomach is upset.
The empty boat bobbed up and down beside the pier.
Imagine a warm summer evening with a calm sea.
Oh, I see. Ah, now I remember the name.
Boys enjoy noisy toys, but the oyster avoids the oil.
Our loud cow found a mouse outside the house.
I like to ride my bike by the lighthouse at night.
They say the train from Spain came eight days late today.
Go home slowly, the road is known to be cold and low.
Here, dear, is the beer we keep near the pier.
Where there's a chair, there's a bear with fair hair.
Poor tourists, surely your tour will be cured by now.
Could you pull the wood and look at the hook?
Blue shoes, new tools, and a spoon full of fruit juice.
Her first words were heard by the nervous nurse.
Father parked the car in the dark yard.
Bob's dog got lost in the hot rocky spot.
All the small talk about law caused a long pause.
Under the sun, nothing was done but running and fun.
Pet ten red hens, then send the rest to bed.
Fat cats sat on flat mats and had a snack.
Six big fish swim in this dim little ship.
She sees three green trees near the clean beach.
May I help you with the map, ma'am?
Perhaps people prefer a proper supper.
No problem, I'll be back before breakfast.
Stop! Keep calm, and stand up, please.
The lamp's amber bulb lit up the bathroom.
A bubble popped, a puppy yapped, and Pam jumped.
Rob grabbed a cab to the club at about nine.
Ham, jam, lamb, and clams were on the menu.
Some of my hobbies: swimming, climbing, and comic books.
Fresh leaves fell from five very fine fruit trees.
If you laugh enough, half of the staff will leave.
Save the vase, move the sofa, and give them a wave.
Have you ever driven a vintage van over rough gravel?
The film festival offered free coffee and live music.
Honestly, it was not what I had in mind.
Wait, was that the bell, or only the wind?
Is it possible to combine both plans into one?
The temperature dropped below zero in December.
Computers remember numbers better than members of my family.
Simple problems become complex when nobody compares them.
An important part of the job is to be on time.
Somebody stamped every page of the pamphlet with a blue stamp.
What time does the last bus leave the market place?
Can you tell me which platform the next train departs from?
Open the window a bit, it is too warm in this room.
I'm afraid the battery is almost empty.
Let me explain how this works, step by step.
Thank you for calling; how may I help you?
Sorry, I did not quite understand the question.
Of course, I would be happy to look that up for you.
In my opinion, both options have their advantages.
The shop on the corner sells apples, plums, and cabbage.
Put a little more pepper into the bean soup.
A proper map would have saved us plenty of problems.
People in the pub were humming an old Beatles number.
Whatever happens, make sure that everybody is safe.
Nothing compares to a bowl of homemade mushroom soup.
The ambulance came from behind and passed us on the bridge.
We cannot promise it, but we will probably be able to manage.
Mother bought me a pair of warm boots and a wool cap.
Between you and me, the movie was pretty boring.
Big brown bears roam about in the deep forest up north.
Step aside, please, the porter must bring the piano in.
It hums, it thumps, it bumps, and finally it stops.
Tom's arms and Kim's palms were warm from the sun's beams.
Both teams have names, themes, and anthems of their own.
Sometimes my dreams seem like films about old times.
He climbs, she swims, and the rest of them roams the farms.
With my luck, most of my maps of Milan are with my aunt.
Five more miles, seven more months, and eleven more meals.
Music, museums, and community work are amusing to me.
The amulet's mute beauty was a matter of pure opinion.
Think more, talk less, and take my advice once more.
The dark moon, the black mud, and a thick mist met us.
Caps, cups, ropes, and stamps lay on the steps.
She sleeps, he hops, and the tap drips on the lamps.
Perhaps the shops have chips, soups, and ripe grapes.
Capsules collapse, maps get lost, and lips chap in winter.
Absolutely obvious: observe, obtain, and obey.
Jobs, bulbs, cabs, tubes, and cobwebs fill the labs.
Bob's club robs nobody, and the cubs' ribs are healed.
Let's buy it. It's better, it's bigger, and it's built to last.
He's back, she's busy, and this bus was built last spring.
At best, that bird might be a big black bat.
Add butter, red beans, and hard bread; it had been good bread.
Just put that pen back, first page, last paragraph.
Eight pounds, sweet peas, and that particular hot pepper.
Speak up, spell it, spend less, and sprint past the sports park.
Upbeat, homemade, lamp-post, subway, and subplot are words.
I'm my mom's best man, and I'm proud of him and them.
From Miami to Manchester, the same movie made millions.
In my room the wind might move my old wind mill.
Tell me, call me, kill my doubts, and help me calm myself.
""".strip().splitlines()

NAMES = (
    "Anna Ben Amber Bob Emma Pam Tom Barbara Philip Maria Peter Mabel Sophie Abraham Paul Molly Jacob Vivian Frank "
    "Zoe George Charlotte Yusuf Ingrid Hugo Theo Ruth Bianca Pablo Miriam Tim Imogen Webster Campbell Morgan"
).split()
PLACES = (
    "Berlin Paris Mumbai Boston Hamburg Lima Budapest Prague Oslo Cape-Town Vienna Birmingham Tampa Marseille "
    "Cambridge Mexico Brisbane Zurich Philadelphia Jerusalem Bombay Memphis Alabama Tokyo Bath"
).split()
THINGS = (
    "apple,banana,camera,lamp,table,bottle,book,map,bucket,umbrella,ship,piano,basket,pump,computer,stamp,phone,"
    "ticket,box,cup,garden,window,violin,football,cheese,jar,brush,thimble,hammer,number,bible,puzzle,beam,film,vase,"
    "problem,message,sample,program,tomato,rabbit,mirror,battery,engine,sweater,newspaper,magazine,watch,yard"
).split(",")
KINDS = (
    "big,small,blue,black,simple,empty,bright,modern,famous,pretty,soft,heavy,warm,broken,purple,smooth,yellow,"
    "public,private,humble,bumpy,expensive,cheap,round,deep,huge,fresh,plain,remarkable,comfortable,usual,thin,rough"
).split(",")
DOES = (
    "bought,found,moved,painted,mended,carried,dropped,borrowed,remembered,sampled,compared,pushed,put away,"
    "measured,bumped into,missed,gave away,stopped,described,imagined,grabbed,loved,hid,shook,opened,wrapped,sold me"
).split(",")
WHEN = (
    "yesterday,this morning,before lunch,in September,on Monday,last week,about an hour ago,by mistake,at the moment,"
    "between two meetings,every summer,once more,after the movie,for the first time,at half past eleven,in public"
).split(",")
ASKS = (
    "Why did {name} bring the {kind} {thing}?",
    "May I borrow your {kind} {thing}, {name}?",
    "Did you know that {name} moved to {place}?",
    "How many {thing}s are there in {place}?",
    "What about the {thing}, {name}?",
    "Is the {thing} more {kind} than the {other}?",
)
TELLS = (
    "{name} {does} a {kind} {thing} {when}.",
    "{when}, {name} and {friend} {does} the {thing} from {place}.",
    "The number is {number}, and the price is {price} dollars.",
    "My {thing} is {kind}, but the {other} by the {third} is {kind2}.",
    "Flight {number} to {place} departs at {hour} {minute}.",
    "{name} Smith was born in {place} in {year}.",
    "Please put the {kind} {thing} beside the {other}.",
    "Well, {name}, maybe the {thing} belongs to {friend}.",
    "About {number} people from {place} {does} it {when}.",
    "Mm, the {kind} {thing}. Yes, I believe {friend} {does} it {when}.",
    "No, not the {thing}! The {kind} {other}, please.",
    "{number} times {minute} makes {year}, hm, probably.",
    "{name}'s {thing} and most of my {other}s come from {place}.",
    "It's my {kind} {thing}; that's part of my job with {friend}.",
    "{friend}'s {thing} stops, jumps, and bumps against my {other}.",
)


def sentence(rng: random.Random) -> str:
    """One line to say: one of ours, or one made up; about a third are questions or hold numbers."""
    if rng.random() < 0.35:
        return rng.choice(SENTENCES)
    text = rng.choice(ASKS if rng.random() < 0.25 else TELLS)
    said = text.format(
        name=rng.choice(NAMES),
        friend=rng.choice(NAMES),
        place=rng.choice(PLACES).replace("-", " "),
        thing=rng.choice(THINGS),
        other=rng.choice(THINGS),
        third=rng.choice(THINGS),
        kind=rng.choice(KINDS),
        kind2=rng.choice(KINDS),
        does=rng.choice(DOES),
        when=rng.choice(WHEN),
        number=rng.choice((rng.randint(2, 20), rng.randint(21, 999), rng.randint(1000, 99999))),
        price=rng.randint(2, 99),
        hour=rng.randint(1, 12),
        minute=rng.randint(10, 59),
        year=rng.randint(1800, 2030),
    )
    return said[0].upper() + said[1:]
