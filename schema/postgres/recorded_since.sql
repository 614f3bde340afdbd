-- Takes the locks of a conditional append, and tells what has been recorded since it was decided: for each condition
-- and type of event, the last position of an event that carries all its tags, after the position it was decided at.
--
-- `conditions` is a list of {"tags": [...], "after": position}. The first tag of each is locked and looked up: every event
-- that matches carries it. An append that has written the tag and is still open is waited for, and one that comes later waits
-- for us; the rows are read in a statement after the locks, whose snapshot sees all that those we waited for committed.
-- That needs READ COMMITTED, where a new statement is a new snapshot.
--
-- A position beyond the end of the log was read in another one, or before this one was restored: no event after it would
-- ever refuse anything, so it is refused itself.
create function {schema}.recorded_since(written text[], conditions json)
returns table (condition integer, type text, "position" bigint)
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
#variable_conflict use_column
declare
    asked record;
begin
    if current_setting('transaction_isolation') <> 'read committed' then
        raise exception 'a conditional append needs READ COMMITTED, this transaction is %',
            upper(current_setting('transaction_isolation'))
            using errcode = 'invalid_transaction_state',
                  hint = 'under another isolation level it does not see what was committed while it waited';
    end if;

    perform {schema}.lock_tags(written, array(select c #>> '{tags,0}' from json_array_elements(conditions) as c));

    for asked in
        select place::integer as place, (c ->> 'after')::bigint as after,
               array(select json_array_elements_text(c -> 'tags')) as tags
        from json_array_elements(conditions) with ordinality as listed(c, place)
    loop
        if asked.after > {schema}.head() then
            raise exception 'a condition after position %, beyond the end of the log at %', asked.after, {schema}.head()
                using errcode = 'invalid_parameter_value';
        end if;

        return query
        select asked.place, found.type, max(found.position)
        from {schema}.event_tags as found
        where found.tag = asked.tags[1]
          and found.position > asked.after
          and not exists (
              select from unnest(asked.tags[2:]) as also(tag)
              where not exists (
                  select from {schema}.event_tags as other
                  where other.tag = also.tag and other.position = found.position
              )
          )
        group by found.type;
    end loop;
end
$$;
