-- Refuses an event that the library would refuse as well, before anything is written (SQLSTATE 22023).
--
-- The names are what a reader can ask for: no control characters, no spaces but the plain one, nothing that cannot be
-- seen. A text in JSON may hold what no text of the database can, a NUL or half a surrogate pair, always written with
-- \u: reading it as jsonb says so. Sizes are bytes of JSON.
create function {schema}.check_event(
    stream text, type text, type_version integer, data json, metadata json, tags text[]
) returns void
language plpgsql immutable
set search_path = pg_catalog, pg_temp
as $$
declare
    unseen constant text :=
        '\u0001-\u001f\u007f-\u00a0\u00ad\u1680\u180e\u2000-\u200f\u2028-\u202f\u205f-\u206f\u3000\ue000-\uf8ff\ufeff';
    problem text;
    remedy text;
begin
    if coalesce(char_length(stream), 0) not between 1 and 500 or stream ~ ('[' || unseen || ']') then
        problem := format('%L cannot name a stream', left(stream, 60));
        remedy := 'name the entity (order-42) with 1 to 500 printable characters';
    elsif coalesce(char_length(type), 0) not between 1 and 200
            or type !~ ('^[^ .*' || unseen || ']+(\.[^ .*' || unseen || ']+)*$') then
        problem := format('%L cannot name an event type', left(type, 60));
        remedy := 'use segments joined by dots, without spaces or *: order.placed';
    elsif coalesce(type_version, 0) < 1 then
        problem := format('type_version %s is no version', coalesce(type_version::text, 'null'));
        remedy := 'versions are whole numbers from 1';
    elsif data is null then
        problem := 'the data of the event is null';
        remedy := 'give JSON; the JSON null is ''null''::json';
    elsif octet_length(data::text) > 1048576 then
        problem := format('the data takes %s bytes as JSON; at most 1048576 are allowed', octet_length(data::text));
        remedy := 'store the large part elsewhere and record where it is';
    elsif json_typeof(metadata) is distinct from 'object' then
        problem := format('the metadata is %s', coalesce('a JSON ' || json_typeof(metadata), 'null'));
        remedy := 'give a JSON object, or leave it out';
    elsif octet_length(metadata::text) > 65536 then
        problem := format(
            'the metadata takes %s bytes as JSON; at most 65536 are allowed', octet_length(metadata::text)
        );
        remedy := 'put what is large into the data, or elsewhere';
    elsif cardinality(tags) > 32 then
        problem := format('%s tags; at most 32 are allowed', cardinality(tags));
        remedy := 'tag what decisions are made by, and put the rest into the data';
    elsif exists (
        select from unnest(tags) as tag
        where coalesce(char_length(tag), 0) not between 1 and 200 or tag ~ ('[' || unseen || ']')
    ) then
        problem := 'a tag is not a text of 1 to 200 printable characters';
        remedy := 'use texts like course:42';
    end if;

    if problem is not null then
        raise exception '%', problem using errcode = 'invalid_parameter_value', hint = remedy;
    end if;

    if strpos(data::text, '\u') > 0 then
        perform data::jsonb;
    end if;
    if strpos(metadata::text, '\u') > 0 then
        perform metadata::jsonb;
    end if;
end
$$;
