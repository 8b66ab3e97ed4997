-- A rule may be about regions, bound the number of instances too, keep GPUs free for its account, let it go beyond its limit
-- while there is room, and have its account served before others; zero means that nothing is said.
ALTER TABLE cluster_inventory.quota_rules
    ADD COLUMN regions       text[]  NOT NULL DEFAULT '{}',
    ADD COLUMN max_instances integer NOT NULL DEFAULT 0,
    ADD COLUMN reserved      integer NOT NULL DEFAULT 0,
    ADD COLUMN burst         integer NOT NULL DEFAULT 0,
    ADD COLUMN priority      integer NOT NULL DEFAULT 0;
