-- What a reader looks at: the highest position allocated so far, the high-water mark, whether an append is in flight.
--
-- First the sequence, then the marks: an append takes its mark before it allocates a position, so whoever holds a
-- position <= head was marked before the first statement. By the second one either its mark still stands, and holds the
-- answer below everything it may write, or it is over, and a snapshot taken after this function sees all of it. The
-- caller therefore reads rows in a NEW statement, and under READ COMMITTED, where a new statement is a new snapshot.
--
-- in_flight is more than "the high-water mark is below the head": who has left its mark and not yet allocated a position
-- holds nothing back, and may have found the bell not out. Whoever goes to sleep must know of it.
--
-- A mark carries the low 32 bits of a position; it is read as the number nearest to the head that ends in them.
-- The sequence is read by pg_sequence_last_value, never by SELECT: see head.sql.
-- On a standby the marks of the primary cannot be seen, and its sequence runs ahead: refused.
create function {schema}.look(out head bigint, out high_water_mark bigint, out in_flight boolean)
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    low bigint;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'the high-water mark needs READ COMMITTED, this transaction is %',
            upper(current_setting('transaction_isolation'))
            using errcode = 'invalid_transaction_state',
                  hint = 'a reader under another isolation level does not see what has been committed since it began';
    end if;
    if pg_is_in_recovery() then
        raise exception 'the high-water mark cannot be read on a standby'
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'read the log on the primary';
    end if;

    head := coalesce(pg_sequence_last_value('{schema}.events_position_seq'), 0);

    select min(head + ((objid::bigint - head + 2147483648) & 4294967295) - 2147483648)
    into low
    from pg_locks
    where locktype = 'advisory'
      and database = (select oid from pg_database where datname = current_database())
      and classid = '{schema}.events'::regclass::oid
      and objsubid = 2
      and mode = 'ShareLock';

    high_water_mark := least(head, low);
    in_flight := low is not null;
end
$$;
