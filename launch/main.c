#include "base/log.h"

int main(void)
{
    log_error("this tree is being built");
    return 70;
}
