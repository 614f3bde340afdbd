-- Appends one event to a stream, for clients in any language, and returns it as recorded: in one row, in the caller's
-- transaction, with the promises of the library's own append.
--
--     select * from {schema}.append(stream => 'order-42', type => 'order.placed', data => '{"total": 30}');
--
-- `expected` is the version the stream must be at: null for any, 0 for a stream that must not exist. An `id` that is
-- recorded already with the same stream, type, data and tags returns what was recorded; this is looked at before
-- `expected`. Data is kept as it is written; compared it is as jsonb writes it, whatever the spacing and order of keys.
--
-- Errors, with DETAIL a JSON object of the numbers:
--     RL001  the stream is not at the expected version
--     RL002  the id is recorded already, with other content
--     RL003  others appended to the stream all the time; append again
--     22023  the event itself cannot be recorded (check_event)
--
-- The version is max(version) + 1 and the unique (stream, version) decides: who comes second waits inside the INSERT
-- for the outcome of the first, finds nothing inserted, and tries again in a new statement, whose snapshot is new.
--
-- SECURITY DEFINER, and nobody may execute it who has not been granted that: a role with USAGE of the schema and
-- EXECUTE of this function can append, and neither read events nor choose their versions.
create function {schema}.append(
    stream text,
    type text,
    data json,
    expected bigint default null,
    out "position" bigint,
    inout id uuid default null,
    out version bigint,
    out recorded_at timestamp with time zone,
    metadata json default '{}',
    type_version integer default 1,
    tags text[] default null
) returns record
language plpgsql volatile security definer
set search_path = pg_catalog, pg_temp
as $$
declare
    tries_max constant integer := 100;
    id_given constant boolean := append.id is not null;
    distinct_tags constant text[] := (
        select array_agg(named.tag order by named.place)
        from (
            select given.tag, min(given.place) as place
            from unnest(append.tags) with ordinality as given(tag, place)
            group by given.tag
        ) as named
    );
    recorded {schema}.events;
    actual bigint;
begin
    metadata := coalesce(append.metadata, '{}');
    perform {schema}.check_event(
        append.stream, append.type, append.type_version, append.data, append.metadata, distinct_tags
    );

    if append.expected < 0 then
        raise exception 'expected % is no version', append.expected
            using errcode = 'invalid_parameter_value',
                  hint = 'give the version the stream was read at, 0 for a stream that must not exist, null for any';
    end if;

    if not id_given then
        -- Ids that rise with time keep the index on them compact; PostgreSQL makes them from release 18 on.
        if current_setting('server_version_num')::integer >= 180000 then
            id := uuidv7();
        else
            id := gen_random_uuid();
        end if;
    end if;

    if distinct_tags is not null then
        -- Before the version and the position are taken: see lock_tags.sql.
        perform {schema}.lock_tags(distinct_tags, null);
    end if;

    for try in 1..tries_max loop
        insert into {schema}.events as e (id, stream, version, type, type_version, data, metadata, tags)
        select append.id, append.stream, now_at.version + 1, append.type, append.type_version, append.data,
               append.metadata, distinct_tags
        from (
            select coalesce(max(s.version), 0) as version from {schema}.events as s where s.stream = append.stream
        ) as now_at
        where append.expected is null or now_at.version = append.expected
        on conflict do nothing
        returning e.position, e.version, e.recorded_at
        into append.position, append.version, append.recorded_at;

        if found then
            return;
        end if;

        if id_given then
            select e.* into recorded from {schema}.events as e where e.id = append.id;
            if found then
                if (recorded.stream, recorded.type, recorded.type_version)
                        = (append.stream, append.type, append.type_version)
                    and coalesce(recorded.tags, '{}') @> coalesce(distinct_tags, '{}')
                    and coalesce(recorded.tags, '{}') <@ coalesce(distinct_tags, '{}')
                    and (recorded.data::text = append.data::text
                         or recorded.data::jsonb::text = append.data::jsonb::text) then
                    append.position := recorded.position;
                    append.version := recorded.version;
                    append.recorded_at := recorded.recorded_at;
                    return;
                end if;
                raise exception 'event % is already recorded with other content', append.id
                    using errcode = 'RL002',
                          detail = json_build_object('id', append.id, 'position', recorded.position),
                          hint = 'give a new fact a new id; repeat an append with exactly the event it had';
            end if;
        end if;

        if append.expected is not null then
            select coalesce(max(e.version), 0) into actual from {schema}.events as e where e.stream = append.stream;
            if actual <> append.expected then
                raise exception 'stream "%" is at version %, expected %', append.stream, actual, append.expected
                    using errcode = 'RL001',
                          detail = json_build_object(
                              'stream', append.stream, 'expected', append.expected, 'actual', actual
                          ),
                          hint = 'read the stream again, decide again, and append with the version you then saw';
            end if;
        end if;
    end loop;

    raise exception 'stream "%" was appended to by others % times in a row', append.stream, tries_max
        using errcode = 'RL003',
              detail = json_build_object('stream', append.stream),
              hint = 'append again; if this is the rule, spread the events over more streams';
end
$$;

revoke execute on function {schema}.append from public;
