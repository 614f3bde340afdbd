-- Wakes whoever sleeps beside this log when the transaction commits: what appends do that find the bell out, and every
-- operation on a subscriber.
--
-- A session that prepares its transactions (PREPARE TRANSACTION refuses them after NOTIFY) says
-- `set eventlog.doorbell_{schema} = off`; sleepers then find its events by themselves, a few seconds later.
create function {schema}.ring() returns void
language plpgsql volatile
set search_path = pg_catalog, pg_temp
as $$
begin
    if coalesce(current_setting('eventlog.doorbell_{schema}', true), '') not in ('off', 'false', 'no', '0') then
        perform pg_notify('eventlog_doorbell_{schema}', '');
    end if;
end
$$;
