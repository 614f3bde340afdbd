-- The partition an ordering key belongs to, of so many: the first 32 bits of the key's MD5, modulo their number.
-- The code computes the same in subscribers/keys.py.
create or replace function {schema}.partition_of(key text, partitions integer) returns integer
language sql immutable strict parallel safe
as $$
    select ((('x' || substr(pg_catalog.md5(key), 1, 8))::bit(32)::bigint & 4294967295) % partitions)::integer
$$;
