-- Keeps the index of tags as it is, like the events it stands for.
create trigger refuse_change
before update or delete or truncate on {schema}.event_tags
for each statement execute function {schema}.refuse_change();

alter table {schema}.event_tags enable always trigger refuse_change;
