-- The highest position allocated so far, 0 for an empty log. One cheap read: what a poll asks first.
--
-- Read by pg_sequence_last_value and never by SELECT: that function looks at the sequence under its buffer's lock. A
-- SELECT reads the tuple after it has let go of the lock, and while nextval writes its log record, once in 32 numbers,
-- the tuple holds a value up to 32 ahead of what has been given out. A mark taken too high covers nothing, and a
-- high-water mark taken too high passes events that are still to come.
create function {schema}.head() returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select coalesce(pg_sequence_last_value('{schema}.events_position_seq'), 0)
$$;
