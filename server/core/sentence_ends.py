"""How often an English sentence ends behind a word, from the language model that pocketsphinx brings.

Made by scripts/sentence_ends.py: P(</s> | word) in en-us.lm.bin (CMU Sphinx, BSD licence) of its 1000 commonest
words, rounded to powers of two. Of words that are not here it is as usual.
"""

USUAL = 0.16

_PER_CENT = {
    1: """
        a able according an as at bring brought compared during entire even every gave get getting give gives gonna
        gotta has he he's his how i i'd i'll i'm i've if including it's keep let let's looked makes might must my
        nearly never of only our per put putting quite seemed send she she's some supposed thank that's the their
        there's they they'll they're they've to took turned unless very wanna we we'll we're we've what's when
        whether who's would you'd you'll you're you've your
    """,
    2: """
        after against allow almost although always among and any are based became because been being biggest bought
        by came can can't cannot comes could couldn't couple decided didn't doesn't don't due each economic
        especially except few financial find for gets giving glad going got gotten had have haven't having in into
        just kept kind kinda last looking looks lots main make many may most national near new nobody paying pretty
        probably rather seem seems several should shouldn't sit sitting social sort spend starting still such super
        take takes taking tell telling than these told trying under united until used using usually was wasn't went
        were weren't where which who will willing with within without wouldn't
    """,
    4: """
        about across actually add all allowed also am amount another aren't ask basically be become believe between
        big build but buy called calling certain certainly come consider create current cut depends drop eighty
        extra feel felt figure finally forty found from front full given global growing hate hear heard hold hope
        hundred international is isn't kill knew large least like likely little lived local look lot made making
        maybe meet middle mostly moved need next ninety not on or other pay personal pick played plus political
        private provide realize recent red save saw see seeing set seventy simply since single sixty small somebody
        someone sounds spent stand stay taken talk talking think thirty those thought thousand totally tried try
        turn twenty use want wanted wants watched what whole wish won't wonder worth write you
    """,
    8: """
        above access along already american anybody anyone around asked asking average behind best billion bit black
        born both british built call care cause check close coming common completely continue cost credit damn
        definitely did different do does doing early eat end enjoy ever everybody everyone expect fact fall far
        favorite feeling fifty first five focus follow forget four further go goes good guess half hard health her
        hey high higher hit however huge human husband imagine increase instead interested its know known knows lead
        learn leave left less listen live living long lose lost love lower major mean means meant met military
        million minimum miss more move moving much needed needs nine no none north number obviously oh old older
        once one open out outside over own paid part particular parts people perhaps piece play playing police poor
        public read reading real really remember rest run running same say saying second seen sell sent share short
        sign similar six so something sometimes sound south speak special start started step stop strong support tax
        ten terms that then thinking third this three through top total trust two type understand up wait waiting
        walk watch watching while white why worked working worry worst young
    """,
    32: """
        action added again ago ahead alone amazing america anymore anyway area awesome california cancer choice cool
        country crazy day dead die difference edit either else etc europe fine fun funny future game happen
        happening hello here himself huh iraq issue itself life list lol luck minutes moment month morning night ok
        okay opinion period possible pounds problem process program quickly reasons right season seriously sir site
        situation society stuff system thanks themselves though today together too trouble true truth week worse wow
        wrong yet yourself
    """,
}

SHARES = {word: share / 100 for share, words in _PER_CENT.items() for word in words.split()}
