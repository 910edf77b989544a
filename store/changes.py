"""Find the rows that a commit may change; their checksums are computed before and after the commit."""

from typing import Any

from annotate_transformer.store.catalogue import catalogue
from annotate_transformer.store.checksum import Change, of_shard

# SQL conditions. OF_LISTS selects the rows of the given top-k lists, and OF_LAYERS selects the rows of the
# given layers. The parameters $kinds, $lists and $layers mean the same as in write.sql.
OF_LISTS = (
    "(kind, list, layer) IN "
    "(SELECT unnest($kinds::unit_kind[]), unnest($lists::unit_list[]), unnest($layers::UTINYINT[]))"
)
OF_LAYERS = "list_contains($layers, layer)"


def change_of(name: str, owners: dict[str, Any], tables: dict[str, Any], key: dict[str, Any]) -> Change:
    """Return a set of rows of one table that contains every row that a commit of `tables` may change."""
    table = catalogue()[name]
    owner_id = int(owners[table.owner])
    columns = {column.name for column in table.columns}
    if "shard" in tables and "position_id" in columns:
        [shard] = tables["shard"].select(["shard", "first_position_id", "last_position_id"]).to_pylist()
        first, last = shard["first_position_id"], shard["last_position_id"]
        rows = of_shard(table, owner_id, shard["shard"], first, last)
        return rows if table.is_sharded else Change(table, owner_id, where=rows.where)
    if "shard" in tables and name in ("document", "passage"):
        ids = tables[name][table.key[0]]
        new = f"{table.key[0]} BETWEEN {ids[0]} AND {ids[-1]}" if len(ids) else "false"
        return Change(table, owner_id, where=new)
    if name == "token_direction":
        written = {"written": tables[name]["token_id"].to_pylist()}
        return Change(table, owner_id, where="token_id IN (SELECT unnest($written))", parameters=written)
    if {"lists", "list"} <= {*key, *columns}:
        return Change(table, owner_id, where=OF_LISTS, parameters=key)
    if {"layers", "values"} <= {*key, *columns}:
        return Change(table, owner_id, where=OF_LAYERS, parameters=key)
    return Change(table, owner_id, is_new=table.is_replaced and name in tables)
