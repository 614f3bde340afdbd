-- Leaves the in-flight mark of a transaction that is about to append, before it allocates its first position; then rings
-- the bell, if it is out. The trigger that calls it is made in mark_append.sql.
--
-- The mark is a SHARED transaction-level advisory lock, two-key form: (oid of this events table, position before the
-- first one this transaction can get, cut to 32 bits). Shared, so that appenders never wait for each other; transaction
-- level, so that it goes exactly when the outcome is decided. The oid keeps two logs, and other people's locks, apart.
--
-- The sequence is read by pg_sequence_last_value, never by SELECT, which may show a value that has not been given out
-- yet: see head.sql. NULL, 0 here, is a sequence that has given out nothing.
--
-- Once per transaction: its id is remembered in a transaction-local setting, which ROLLBACK TO SAVEPOINT takes back
-- together with the lock and the notification. The id and not a flag, so that a leftover of the session can never pass
-- for a mark.
--
-- The bell comes after the mark: a sleeper puts it out and then looks for marks, so either we see the bell or the
-- sleeper sees our mark. It is tried and given back in one expression, which nobody can cancel half-way, and at session
-- level: held until the transaction ended, it would make other appenders ring for nothing, and the sleeper wait for us.
-- CASE, since the operands of AND may be evaluated in any order.
--
-- A statement trigger runs before defaults are evaluated and before COPY reads a row, so plain INSERT and COPY from any
-- language are marked too. SECURITY DEFINER: a role that may only insert must be able to read the sequence here.
create or replace function {schema}.mark_append() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    this_transaction constant text := pg_current_xact_id()::text;
    bell bigint;
    low bigint;
begin
    if current_setting('eventlog.marked_{schema}', true) is distinct from this_transaction then
        low := coalesce(pg_sequence_last_value('{schema}.events_position_seq'), 0);

        perform pg_advisory_xact_lock_shared(
            (((tg_relid::bigint + 2147483648) & 4294967295) - 2147483648)::integer,
            (((low + 2147483648) & 4294967295) - 2147483648)::integer
        );
        perform set_config('eventlog.marked_{schema}', this_transaction, true);
        perform set_config('eventlog.low_{schema}', low::text, true);

        bell := {schema}.doorbell_key();
        if not (case when pg_try_advisory_lock(bell) then pg_advisory_unlock(bell) else false end) then
            perform {schema}.ring();
        end if;
    end if;
    return null;
end
$$;
