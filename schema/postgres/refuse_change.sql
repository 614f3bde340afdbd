-- Keeps what has been recorded as it is: no UPDATE, DELETE or TRUNCATE of events, attempts and operations.
create function {schema}.refuse_change() returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    raise exception '% of %.% is refused: what has been recorded never changes', tg_op, tg_table_schema, tg_table_name
        using errcode = 'restrict_violation',
              hint = 'to process events again, rewind a subscriber: eventlog rewind SUBSCRIBER --from POSITION';
end
$$;

create trigger refuse_change
before update or delete or truncate on {schema}.events
for each statement execute function {schema}.refuse_change();

alter table {schema}.events enable always trigger refuse_change;

create trigger refuse_change
before update or delete or truncate on {schema}.attempts
for each statement execute function {schema}.refuse_change();

create trigger refuse_change
before update or delete or truncate on {schema}.operations
for each statement execute function {schema}.refuse_change();
