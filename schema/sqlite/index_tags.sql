-- Writes the tags of an event where reads and decisions look them up. An untagged event does nothing here.
create trigger {prefix}events_index_tags after insert on {prefix}events
when new.tags is not null
begin
    select raise(abort, 'CHECK: an event has at most 32 tags, each of them a text')
    where json_array_length(new.tags) > 32
       or exists (select 1 from json_each(new.tags) where json_each.type <> 'text');

    insert into {prefix}event_tags (tag, position, type)
    select distinct value, new.position, new.type
    from json_each(new.tags);
end;
