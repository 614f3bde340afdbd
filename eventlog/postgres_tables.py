"""What PostgreSQL's catalog says about tables: how large they are; and who refers to one whose name another is to take,
and who may use it.

Names are looked up when a statement is analysed, so whoever says a table's name after the exchange gets the new one.
Views, functions, foreign keys and the like hold on to the table itself and would keep the old one; they are found here,
and the exchange is then refused.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import Connection, text
from sqlalchemy.sql.expression import TableClause

from eventlog.database import Relation, Right, Rights, Sizes

_HOLDS_ON = text(
    """
    with mine as (select unnest(cast(:names as text[]))::regclass::oid as oid),
         types as (select reltype as oid from pg_class where oid in (select oid from mine))
    select 'view ' || v.oid::regclass
    from pg_depend d join pg_rewrite r on d.classid = 'pg_rewrite'::regclass and d.objid = r.oid
    join pg_class v on v.oid = r.ev_class
    where d.refclassid = 'pg_class'::regclass and d.refobjid in (select oid from mine)
        and v.oid not in (select oid from mine)
    union
    select 'function ' || d.objid::regprocedure
    from pg_depend d
    where d.classid = 'pg_proc'::regclass
        and (d.refclassid = 'pg_class'::regclass and d.refobjid in (select oid from mine)
            or d.refclassid = 'pg_type'::regclass and d.refobjid in (select oid from types))
    union
    select 'foreign key of ' || c.conrelid::regclass
    from pg_constraint c
    where c.contype = 'f' and c.confrelid in (select oid from mine) and c.conrelid not in (select oid from mine)
    union
    select 'trigger ' || quote_ident(t.tgname)
    from pg_trigger t
    where t.tgrelid in (select oid from mine) and not t.tgisinternal
    union
    select 'policy ' || quote_ident(p.polname) from pg_policy p where p.polrelid in (select oid from mine)
    union
    select 'row level security of ' || c.oid::regclass
    from pg_class c where c.oid in (select oid from mine) and c.relrowsecurity
    union
    select 'inheritance of ' || case when i.inhrelid in (select oid from mine) then i.inhparent else i.inhrelid end
        ::regclass
    from pg_inherits i
    where i.inhrelid in (select oid from mine) or i.inhparent in (select oid from mine)
    union
    select 'publication ' || quote_ident(p.pubname)
    from pg_publication_rel r join pg_publication p on p.oid = r.prpubid
    where r.prrelid in (select oid from mine)
    order by 1
    """
)

_PARTS = text(
    """
    select 'constraint' as kind, conname as name from pg_constraint where conrelid = cast(:name as regclass)
    union all
    select 'index', c.relname from pg_index i join pg_class c on c.oid = i.indexrelid
    where i.indrelid = cast(:name as regclass)
        and not exists (select from pg_constraint where conindid = c.oid and contype in ('p', 'u', 'x'))
    union all
    select 'sequence', c.relname from pg_depend d join pg_class c on c.oid = d.objid and c.relkind = 'S'
    where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
        and d.refobjid = cast(:name as regclass)
    """
)

_RIGHTS = text(
    """
    select privilege_type as privilege, is_grantable, null as column_name,
        case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end as grantee
    from pg_class, lateral aclexplode(coalesce(relacl, acldefault('r', relowner)))
    where oid = cast(:name as regclass) and grantee <> relowner
    union all
    select privilege_type, is_grantable, quote_ident(attname),
        case grantee when 0 then 'public' else quote_ident(pg_get_userbyid(grantee)) end
    from pg_attribute, lateral aclexplode(attacl)
    where attrelid = cast(:name as regclass) and attnum > 0 and not attisdropped
    """
)

_COLUMNS = text("select quote_ident(attname) from pg_attribute where attrelid = cast(:name as regclass)")

_OWNER = text(
    "select quote_ident(pg_get_userbyid(relowner)), relowner = current_user::regrole"
    " from pg_class where oid = cast(:name as regclass)"
)


_SIZES = text(
    """
    select c.relname as name, case when i.indexrelid is null then 'table' else 'index' end as kind,
        coalesce(t.relname, c.relname) as of,
        case when i.indexrelid is null then pg_table_size(c.oid) else pg_relation_size(c.oid) end as bytes
    from pg_class c
    left join pg_index i on i.indexrelid = c.oid
    left join pg_class t on t.oid = i.indrelid
    where c.relnamespace = cast(:schema as regnamespace) and c.relkind in ('r', 'i')
    order by bytes desc, name
    """
)


def sizes(connection: Connection, schema: str) -> Sizes:
    """Read what the tables and indexes of a schema take; a table without its indexes."""
    rows = connection.execute(_SIZES, {"schema": schema})
    relations = tuple(Relation(name=one.name, kind=one.kind, of=one.of, bytes=one.bytes) for one in rows)
    whole = connection.scalar(text("select pg_database_size(current_database())"))
    return Sizes(database_bytes=int(whole or 0), relations=relations)


def holding_on(connection: Connection, names: Sequence[TableClause]) -> list[str]:
    """Name what would go on with the old tables, or be lost with them, if others took their names."""
    return list(connection.scalars(_HOLDS_ON, {"names": [_quoted(connection, one) for one in names]}))


def rename_table(connection: Connection, name: TableClause, to: str, part: Callable[[str], str]) -> None:
    """Rename a table, and its indexes, constraints and sequences as `part` says."""
    quote = connection.dialect.identifier_preparer
    found = connection.execute(_PARTS, {"name": _quoted(connection, name)}).all()
    connection.exec_driver_sql(f"alter table {_quoted(connection, name)} rename to {quote.quote(to)}")
    schema = f"{quote.quote_schema(name.schema)}." if name.schema else ""
    for one in found:
        old, new = quote.quote(one.name), quote.quote(part(one.name))
        if one.kind == "constraint":
            statement = f"alter table {schema}{quote.quote(to)} rename constraint {old} to {new}"
        else:
            statement = f"alter {one.kind} {schema}{old} rename to {new}"
        connection.exec_driver_sql(statement.replace("%", "%%"))


def rights_of(connection: Connection, name: TableClause) -> Rights:
    """Read who owns a table, and who may use it."""
    given = {"name": _quoted(connection, name)}
    owner, is_mine = connection.execute(_OWNER, given).one()
    rows = connection.execute(_RIGHTS, given).all()
    return Rights(
        owner=None if is_mine else owner,
        granted=tuple(
            Right(privilege=one.privilege, column=one.column_name, grantee=one.grantee, is_grantable=one.is_grantable)
            for one in rows
        ),
    )


def grant(connection: Connection, name: TableClause, rights: Rights) -> None:
    """Give a table an owner and rights; those on columns that it has not are left out."""
    target = _quoted(connection, name)
    columns = {None, *connection.scalars(_COLUMNS, {"name": target})}
    for right in rights.granted:
        if right.column in columns:
            column = f" ({right.column})" if right.column else ""
            more = " with grant option" if right.is_grantable else ""
            connection.exec_driver_sql(
                f"grant {right.privilege}{column} on {target} to {right.grantee}{more}".replace("%", "%%")
            )
    if rights.owner is not None:
        connection.exec_driver_sql(f"alter table {target} owner to {rights.owner}".replace("%", "%%"))


def _quoted(connection: Connection, name: TableClause) -> str:
    return connection.dialect.identifier_preparer.format_table(name)
