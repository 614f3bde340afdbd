-- Gives rights on the tables of read models to every role that has some on `checkpoints`: workers and operators that went on
-- through the upgrade would be refused otherwise. Failures are deleted when a rebuilt projection takes over from the old one.
do $$
declare
    given record;
begin
    for given in
        select distinct grantee, privilege_type
        from information_schema.role_table_grants
        where table_schema = '{schema}' and table_name = 'checkpoints' and grantee <> current_user
            and privilege_type in ('SELECT', 'INSERT', 'UPDATE')
    loop
        execute format(
            'grant %s on {schema}.rebuilds, {schema}.snapshots to %s',
            case given.privilege_type when 'UPDATE' then 'update, delete' else lower(given.privilege_type) end,
            case given.grantee when 'PUBLIC' then 'public' else quote_ident(given.grantee) end
        );
        if given.privilege_type = 'UPDATE' then
            execute format(
                'grant delete on {schema}.failures to %s',
                case given.grantee when 'PUBLIC' then 'public' else quote_ident(given.grantee) end
            );
        end if;
    end loop;
end
$$;
