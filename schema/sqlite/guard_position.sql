-- Refuses every row that would appear behind a reader, and every INSERT OR REPLACE that would remove a recorded event.
--
-- One writer at a time: position order is commit order, as long as the database numbers the events itself, one by one. The
-- next number follows the last event, or the last number drawn: an INSERT that was ignored has drawn one for nothing. While
-- a statement runs, sqlite_sequence still holds what it held before.
create trigger {prefix}events_guard_replace before insert on {prefix}events
when exists (select 1 from {prefix}events where id = new.id)
  or exists (select 1 from {prefix}events where stream = new.stream and version = new.version)
  or exists (select 1 from {prefix}events where position = new.position)
begin
    select raise(abort, 'UNIQUE: an event with this id, position, or stream and version, is already recorded');
end;

create trigger {prefix}events_guard_position after insert on {prefix}events
when new.position <> 1 + coalesce((select max(position) from {prefix}events where position <> new.position), 0)
 and new.position <> 1 + coalesce((select seq from sqlite_sequence where name = '{prefix}events'), 0)
begin
    select raise(abort, 'position is not the next one: name (id, stream, version, type, data), leave position out');
end;
