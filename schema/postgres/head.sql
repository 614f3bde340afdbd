-- The highest position allocated so far, 0 for an empty log. One cheap read: what a poll asks first.
--
-- A fresh sequence reads last_value = 1 before *and* after its first number; is_called tells the two apart.
create function {schema}.head() returns bigint
language sql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
    select case when is_called then last_value else last_value - 1 end
    from {schema}.events_position_seq
$$;
