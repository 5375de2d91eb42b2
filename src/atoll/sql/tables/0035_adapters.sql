-- Adapters are rows of atoll.model, too. Their names begin with that of the model that they are used with.

alter table atoll.model drop constraint model_name_check;
alter table atoll.model add constraint model_name_check
    check (name ~ '^[a-z0-9][a-z0-9._-]{0,62}(:[a-z0-9][a-z0-9._-]{0,62})?$');
