-- Keeps what has been recorded as it is: no UPDATE or DELETE of events, attempts and operations.
create trigger {prefix}events_refuse_update before update on {prefix}events
begin
    select raise(abort, 'UPDATE of events is refused: what has been recorded never changes');
end;

create trigger {prefix}events_refuse_delete before delete on {prefix}events
begin
    select raise(abort, 'DELETE of events is refused: what has been recorded never changes');
end;

create trigger {prefix}attempts_refuse_update before update on {prefix}attempts
begin
    select raise(abort, 'UPDATE of attempts is refused: what has been recorded never changes');
end;

create trigger {prefix}attempts_refuse_delete before delete on {prefix}attempts
begin
    select raise(abort, 'DELETE of attempts is refused: what has been recorded never changes');
end;

create trigger {prefix}operations_refuse_update before update on {prefix}operations
begin
    select raise(abort, 'UPDATE of operations is refused: what has been recorded never changes');
end;

create trigger {prefix}operations_refuse_delete before delete on {prefix}operations
begin
    select raise(abort, 'DELETE of operations is refused: what has been recorded never changes');
end;
