ALTER TABLE cluster_inventory.quota_rules
    DROP COLUMN priority, DROP COLUMN burst, DROP COLUMN reserved, DROP COLUMN max_instances, DROP COLUMN regions;
