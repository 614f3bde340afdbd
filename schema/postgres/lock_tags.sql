-- Takes the locks that decisions about tags are made under, until the end of the transaction.
--
-- Who writes an event takes a shared lock on each of its tags; who decides by a tag takes an exclusive one. Writers
-- never wait for each other therefore; a decision waits until those who have written its tag have ended, sees what they
-- committed, and keeps others from committing more before it has ended itself.
--
-- An append takes them before its version and its position. Afterwards it would hold the version that a decision by its tag
-- needs, each waiting for the other; and its position could be below that of a decision that never saw it. The trigger
-- that indexes an event can only come afterwards: a plain INSERT that wants this calls lock_tags before.
--
-- A tag is locked by its hash, one of 256: two tags may wait for each other without need, but however many tags a
-- transaction writes, it never fills the server's lock table. All locks of a call are taken in one order, so two appends
-- cannot block each other for good. The oid of event_tags keeps them apart from marks and from other logs.
create function {schema}.lock_tags(written text[], decided text[]) returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
declare
    tags constant oid := '{schema}.event_tags'::regclass::oid;
    class constant integer := (((tags::bigint + 2147483648) & 4294967295) - 2147483648)::integer;
    lock record;
begin
    for lock in
        select hashtext(tag) & 255 as bucket, bool_or(is_decided) as is_exclusive
        from (
            select tag, false as is_decided from unnest(written) as tag
            union all
            select tag, true from unnest(decided) as tag
        ) as asked
        group by bucket
        order by bucket
    loop
        if lock.is_exclusive then
            perform pg_advisory_xact_lock(class, lock.bucket);
        else
            perform pg_advisory_xact_lock_shared(class, lock.bucket);
        end if;
    end loop;
end
$$;
