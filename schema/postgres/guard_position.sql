-- Refuses every row that could appear behind a reader: written without a mark, or at a position the mark does not cover.
--
-- Catches what would otherwise lose events silently: a sequence with a cache, positions given by hand, triggers that
-- did not fire. AFTER and not BEFORE, since a BEFORE ROW trigger would cost COPY its multi-row inserts; the condition is
-- in WHEN, so that the function is called only for a row that is refused.
create function {schema}.guard_position() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception 'position % is not covered by an in-flight mark of this transaction', new.position
        using errcode = 'object_not_in_prerequisite_state',
              hint = 'let the database number events: name (id, stream, version, type, data) and leave position out';
end
$$;

create trigger guard_position
after insert on {schema}.events
for each row
when (
    case
        when current_setting('eventlog.marked_{schema}', true) is distinct from pg_current_xact_id()::text then true
        else new.position <= current_setting('eventlog.low_{schema}', true)::bigint
    end
)
execute function {schema}.guard_position();

alter table {schema}.events enable always trigger guard_position;
