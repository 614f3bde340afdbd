-- Keeps the index of tags as it is, like the events it stands for.
create trigger {prefix}event_tags_refuse_update before update on {prefix}event_tags
begin
    select raise(abort, 'UPDATE of events is refused: what has been recorded never changes');
end;

create trigger {prefix}event_tags_refuse_delete before delete on {prefix}event_tags
begin
    select raise(abort, 'DELETE of events is refused: what has been recorded never changes');
end;
