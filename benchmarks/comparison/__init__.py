"""The comparison of vrfstore with what a user would take instead: one run, the same wheels, rounds that alternate.

====================  =================================================================================
``model``             what a run has found, and its JSON
``figures``           medians, quartiles, ratios pair by pair                                      pure
``floors``            what the figures have to be, and whether they are                            pure
``report``            Markdown of a run                                                            pure
``plots``             drawings of a run; needs matplotlib, which only the tools' environment has
``planning``          which scenario is run with which tools on which workload, and how often      pure
``workloads``         sets of wheels: their locks, fetching them once, the files that tools read
``serving``           an index on loopback in a process of its own
``spawner``           starts commands and says what they took; a process of its own, and a small one
``processes``         its other end
``tools``             the command lines of vrfstore and of everybody else
``toolbox``           where those tools are, and how they came there
``scenarios``         their names, and how each is run, which ``making``, ``asking``, ``lasting`` and ``storing`` know
``rounds``            takes turns between tools, until there are enough rounds or no time is left
``machine``           what this was measured on, and which commit
====================  =================================================================================
"""
