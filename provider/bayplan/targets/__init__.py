"""How the engine reaches the kinds in a place: adapters over the cores.

An adapter looks (:meth:`observe`, :meth:`forecast`) and acts (:meth:`perform`); it never decides. What it says about an
object has the canonical form of the kind (``bayplan.kinds``), so that the planner compares values and nothing else.
"""
