-- The key of this log's bell: a session-level advisory lock that sleepers hold shared, and appenders try.
--
-- One-key form, "bell" in ASCII above the oid of the events table. Marks use the two-key form, and appends that queue up
-- the bare oid, so neither can be taken for the bell, nor stand in its way.
create function {schema}.doorbell_key() returns bigint
language sql stable
as $$
    select (1650814060::bigint << 32) | '{schema}.events'::regclass::oid::bigint
$$;
