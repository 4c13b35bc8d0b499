/* placeholder: replaced by the folder's first file */ extern int lorad_trainer_placeholder; int lorad_trainer_placeholder;
