"""Children whose parent was deleted elsewhere, and nodes that deal with them."""

from __future__ import annotations

from support.fix_nodes import Node, Nodes

OPEN = "select key, parent_key, why from atoll.orphan where done is null order by id"
DONE = "select key, done from atoll.orphan where done is not null order by id"


def walk(node: Node, table: str = "public.line", most: int = 1000) -> int:
    """A table from end to end, as the node goes through it; says in how many steps."""
    after, steps = "", 0
    while after is not None:
        ((after, _),) = node.owner("select * from atoll.find_orphans(%s, %s, %s, 100)", table, after, most)
        steps += 1
    node.owner("select atoll.review_orphans()")
    return steps


def beat(nodes: Nodes) -> None:
    """Marks pass, until everybody has heard of everything written before."""
    for _ in range(3):
        for node in nodes:
            node.owner("select atoll.make_marks(true)")
        nodes.sync()


def tend(nodes: Nodes, *tables: str) -> None:
    """Every node finds its orphans, hears everybody, and deals with them; all at once."""
    for node in nodes:
        for table in tables or ("public.line",):
            walk(node, table)
    beat(nodes)
    for node in nodes:
        node.owner("select atoll.review_orphans()")
        node.owner("select atoll.handle_orphans()")
    nodes.sync()
    for node in nodes:
        node.owner("select atoll.review_orphans()")


def share(
    nodes: Nodes, line: str, merge: str = "{}", parent: str = "id integer primary key, name text"
) -> None:
    one = nodes[0]
    one.run(f"create table customer ({parent})")
    one.share("customer", merge)
    one.run(f"create table line ({line})")
    one.share("line")
    nodes.sync()


def orphan(nodes: Nodes, delete: str = "delete from customer where id = 7") -> None:
    """Node 1 deletes the customer while node 2 writes a line of it."""
    one, two = nodes[0], nodes[1]
    one.run("insert into customer values (7, 'Ann'), (8, 'Bea')")
    nodes.sync()
    one.run(delete)
    two.run("insert into line values (1, 7)")
    nodes.sync()


LINE = "id integer primary key, customer integer default 8 references customer"
PARENT = "id integer primary key, name text"
