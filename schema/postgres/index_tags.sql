-- Writes the tags of an event where reads and decisions look them up, and locks them as written.
--
-- A row trigger, so that plain INSERT and COPY are indexed too; its condition is in WHEN, so that an untagged event does
-- not call it. SECURITY DEFINER: a role that may only insert events need not see the index.
create function {schema}.index_tags() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
    if cardinality(new.tags) > 32 then
        raise exception 'an event with % tags, at most 32 are allowed', cardinality(new.tags)
            using errcode = 'check_violation';
    end if;
    if array_ndims(new.tags) > 1 then
        raise exception 'the tags of an event are one list of texts, not a list of lists'
            using errcode = 'check_violation';
    end if;

    perform {schema}.lock_tags(new.tags, null);
    insert into {schema}.event_tags (tag, position, type)
    select distinct tag, new.position, new.type
    from unnest(new.tags) as tag;
    return null;
end
$$;

create trigger index_tags
after insert on {schema}.events
for each row
when (new.tags is not null)
execute function {schema}.index_tags();

alter table {schema}.events enable always trigger index_tags;
